"""Fields mean the same in JSON and in a form, and what two parsers could read differently is refused."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyy_proxy.endpoints.base import MAX_INT
from oxyy_proxy.endpoints.fields import (
    MAX_ADDRESSES,
    MAX_WORD_CHARS,
    Fields,
    FormFields,
    JsonFields,
    media_type,
    milliseconds,
)
from oxyy_proxy.errors import InvalidJson, InvalidValue
from oxyy_proxy.rules.multipart import Form, FormReader, Pieces

BOUNDARY = "7e3f9a"


class Sent(NamedTuple):
    """A form as it was sent, and as it was read."""

    raw: bytes
    form: Form
    content_type: str

    def joined(self, pieces: bytes | Pieces) -> bytes:
        """The bytes that go upstream."""
        assert not isinstance(pieces, bytes)
        return b"".join(piece if isinstance(piece, bytes) else self.raw[piece.start : piece.end] for piece in pieces)


def sent(*parts: tuple[str, str | bytes], boundary: str = BOUNDARY) -> Sent:
    """A form of these fields in this order; bytes are files."""
    raw = b""
    for name, value in parts:
        filename = "" if isinstance(value, str) else '; filename="a.bin"'
        data = value.encode() if isinstance(value, str) else value
        raw += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'.encode()
        raw += data + b"\r\n"
    raw += f"--{boundary}--\r\n".encode()
    content_type = f"multipart/form-data; boundary={boundary}"
    return Sent(raw, read_form(raw, content_type), content_type)


def read_form(raw: bytes, content_type: str) -> Form:
    reader = FormReader(content_type)
    reader.feed(raw)
    return reader.finish()


def texts(raw: bytes, content_type: str) -> dict[str, str]:
    """The text fields of a form."""
    return {part.name: part.value.decode() for part in read_form(raw, content_type).parts if part.value is not None}


def in_json(**members: Any) -> JsonFields:
    return JsonFields(json.dumps(members).encode())


def in_form(*parts: tuple[str, str | bytes], boundary: str = BOUNDARY) -> FormFields:
    _, form, content_type = sent(*parts, boundary=boundary)
    return FormFields(form, content_type)


def refused(fields: Fields, method: str, *args: Any, **kwargs: Any) -> str | None:
    """The parameter that is named."""
    with pytest.raises(InvalidValue) as caught:
        getattr(fields, method)(*args, **kwargs)
    return caught.value.param


# What a field says.


def test_text_is_the_same_in_both() -> None:
    for fields in (in_json(prompt="Grüße 🎈", x=""), in_form(("prompt", "Grüße 🎈"), ("x", ""))):
        assert (fields.text("prompt"), fields.text("x"), fields.text("y")) == ("Grüße 🎈", "", None)
        assert fields.required("prompt") == "Grüße 🎈"
        assert refused(fields, "required", "x") == "x"
        assert refused(fields, "required", "y") == "y"
    assert in_json(prompt=None).text("prompt") is None


@pytest.mark.parametrize("value", [1, True, [], {}, ["a"], 1.5])
def test_what_is_no_text_is_refused(value: object) -> None:
    assert refused(in_json(prompt=value), "text", "prompt") == "prompt"
    assert refused(in_form(("prompt", b"a")), "text", "prompt") == "prompt"


@pytest.mark.parametrize(("given", "number"), [("1", 1), ("10", 10), (str(MAX_INT), MAX_INT)])
def test_an_integer_is_the_same_in_both(given: str, number: int) -> None:
    assert in_form(("n", given)).integer("n", least=1) == number
    assert in_json(n=number).integer("n", least=1) == number


NUMBERS_THAT_ARE_NONE = (
    "", " 1", "1 ", "+1", "-1", "01", "010", "1_0", "1e1", "1.0", "0x1", "１", "٣", "²", "1\n", "true", "null", "one",
    "9" * 5000, str(MAX_INT + 1),
)  # fmt: skip


@pytest.mark.parametrize("given", [*NUMBERS_THAT_ARE_NONE, "0", "11"], ids=lambda text: ascii(text[:9]))
def test_a_number_in_a_form_that_another_parser_may_read_otherwise_is_refused(given: str) -> None:
    assert refused(in_form(("n", given)), "integer", "n", least=1, most=10) == "n"


@pytest.mark.parametrize("given", ["1", 1.0, 1.5, True, False, 0, -1, 11, [1], {}, 10**30])
def test_a_number_in_json_must_be_a_whole_one_within_bounds(given: object) -> None:
    assert refused(in_json(n=given), "integer", "n", least=1, most=10) == "n"


def test_a_flag_is_the_same_in_both() -> None:
    for said, flag in (("true", True), ("True", True), ("1", True), ("false", False), ("FALSE", False), ("0", False)):
        assert in_form(("stream", said)).flag("stream") is flag
    for value in (True, False):
        assert in_json(stream=value).flag("stream") is value
    assert (in_json(stream=None).flag("stream"), in_form(("x", "y")).flag("stream")) == (False, False)
    for odd in ("", "yes", "on", "2", "true ", "ｔrue"):
        assert refused(in_form(("stream", odd)), "flag", "stream") == "stream"
    for value in ("true", 1, 0, []):
        assert refused(in_json(stream=value), "flag", "stream") == "stream"


def test_a_word_is_short_and_on_one_line() -> None:
    for fields in (in_json(size=" 1024×1024 "), in_form(("size", " 1024×1024 "))):
        assert (fields.word("size"), fields.word("quality")) == (" 1024×1024 ", "")
    assert in_json(size="x" * MAX_WORD_CHARS).word("size") == "x" * MAX_WORD_CHARS
    for odd in ("x" * (MAX_WORD_CHARS + 1), "a\nb", "\0", "\ud83c", "a\u2028"):
        assert refused(in_json(size=odd), "word", "size") == "size"


def test_addresses_are_one_or_several_and_each_has_its_field() -> None:
    one, two = "https://a.org/1", "http://b.org/2"
    assert in_json(image=one).addresses("image") == ((one, "image"),)
    assert in_json(image=[one, two]).addresses("image") == ((one, "image"), (two, "image"))
    assert in_json(image=None).addresses("image") == in_json(image=[]).addresses("image") == ()
    assert in_form(("image", one)).addresses("image") == ((one, "image"),)
    assert in_form(("image[]", one), ("image[]", two)).addresses("image") == ((one, "image"), (two, "image"))
    assert in_form(("image[0]", one), ("images", two)).addresses("image") == ((one, "image"),)
    for odd in (1, True, {}, [1], [one, None], [[one]], "", [one, ""]):
        assert refused(in_json(image=odd), "addresses", "image") == "image"
    assert refused(in_form(("image", "")), "addresses", "image") == "image"
    assert refused(in_json(image=[one] * (MAX_ADDRESSES + 1)), "addresses", "image") == "image"


def test_urls_beside_files_are_seen() -> None:
    fields = in_form(("image[]", b"png"), ("image", "http://10.0.0.1/"), ("image[1]", b"png"))
    assert [part.size_bytes for part in fields.files("image")] == [3, 3]
    assert fields.addresses("image") == (("http://10.0.0.1/", "image"),)
    assert in_json(image="x").files("image") == ()


def test_an_address_alone_is_one() -> None:
    for fields in (in_json(file_url="https://a.org"), in_form(("file_url", "https://a.org"))):
        assert fields.address("file_url") == (("https://a.org", "file_url"),)
        assert fields.address("other") == ()
    assert refused(in_json(file_url=["https://a.org"]), "address", "file_url") == "file_url"
    assert refused(in_json(file_url=""), "address", "file_url") == "file_url"
    assert refused(in_form(("file_url", "")), "address", "file_url") == "file_url"


def test_bytes_that_are_no_text_do_not_become_a_url_that_could_pass() -> None:
    raw, _, content_type = sent(("image", "https://a.org/@"))
    fields = FormFields(read_form(raw.replace(b"@", b"\xff"), content_type), content_type)
    assert fields.addresses("image") == (("https://a.org/\udcff", "image"),)  # surrogates are in no URL


# Which model.


def test_the_model_may_be_left_out_but_not_be_odd() -> None:
    assert (in_json(model="m").model, in_json(model=None).model, in_json(x=1).model) == ("m", None, None)
    assert (in_form(("model", "m")).model, in_form(("x", "1")).model) == ("m", None)
    for value in ("", 1, [], True):
        with pytest.raises(InvalidValue, match="model"):
            in_json(model=value)
    with pytest.raises(InvalidValue, match="model"):
        in_form(("model", ""))
    with pytest.raises(InvalidJson):
        JsonFields(b"[]")


# What goes upstream.


def test_json_keeps_every_byte_but_those_of_what_changes() -> None:
    raw = b'{ "x":1.00, "n" : null,"model":"a", "y":"\\ud83c\\/" }\n'
    fields = JsonFields(raw)
    assert fields.changed({}) is raw
    changed = raw.replace(b"null", b"1").replace(b'"a"', b'"b"')
    assert fields.changed({"model": "b", "n": 1}) == changed
    assert fields.changed({"z": 4}) == raw.replace(b" }\n", b',"z":4 }\n')


def test_a_form_keeps_every_byte_but_those_of_what_changes() -> None:
    given = sent(("file", b"--\r\n\0\xff"), ("model", "a"), ("x", "a"))
    fields = FormFields(given.form, given.content_type)
    assert given.joined(fields.changed({})) == given.raw
    assert given.joined(fields.changed({"model": "longer"})) == given.raw.replace(b"\r\n\r\na", b"\r\n\r\nlonger", 1)
    with_n = given.joined(fields.changed({"n": 1, "model": "b"}))
    assert texts(with_n, given.content_type) == {"n": "1", "model": "b", "x": "a"}
    assert with_n.endswith(given.raw[given.raw.index(b'name="x"') :])


def test_what_was_read_is_forgotten_and_the_body_is_whole() -> None:
    fields = in_json(model="a", file_base64="A" * 1000, n=None)
    fields.forget()
    assert set(fields.members.values()) == {None}
    changed = json.loads(fields.changed({"model": "b", "n": 1}))
    assert changed == {"model": "b", "file_base64": "A" * 1000, "n": 1}
    in_form(("model", "a")).forget()


def test_a_boundary_that_the_model_would_break_is_refused_before_anything_is_sent() -> None:
    fields = in_form(("prompt", "x"), boundary="pro")
    fields.require_room_for("flux-pro")
    assert refused(fields, "require_room_for", "flux--pro") == "model"
    in_json(prompt="x").require_room_for('a"--pro')


# Media types and lengths.


def test_a_media_type_is_read_without_case_and_parameters() -> None:
    assert media_type("Application/JSON; charset=utf-8") == "application/json"
    assert (media_type(" text/vtt "), media_type(""), media_type(";")) == ("text/vtt", "", "")


@pytest.mark.parametrize(
    ("seconds", "ms"),
    [
        (5.42, 5420),
        (0.07, 70),
        (4.35, 4350),
        (1.001, 1001),
        (4, 4000),
        (4.0, 4000),
        (0.0001, 1),
        (1e-320, 1),
        (5.42000001, 5421),
        ("5.42", 5420),
        (" 4 ", 4000),
        ("8.470000267028809", 8471),
        (10, 10_000),
        (10.0001, None),
        (0, None),
        (0.0, None),
        (-0.0, None),
        (-1, None),
        (True, None),
        (False, None),
        (None, None),
        ([], None),
        ({"seconds": 1}, None),
        ("", None),
        ("four", None),
        ("4s", None),
        ("1e999999999999", None),
        ("1e999999", None),
        ("1e-999999", 1),
        ("NaN", None),
        ("sNaN", None),
        ("Infinity", None),
        ("-1", None),
        ("1" * 10_000_000, None),
        (10**400, None),
        (10**5000, None),
        (-(10**5000), None),
        (float("nan"), None),
        (float("inf"), None),
        (float("-inf"), None),
        (1e308, None),
    ],
    ids=lambda value: "huge" if isinstance(value, int) and abs(value) > 10**20 else ascii(value)[:20],
)
def test_a_length_is_read_by_its_decimals_or_not_at_all(seconds: object, ms: int | None) -> None:
    assert milliseconds(seconds, 10_000) == ms


@given(seconds=st.floats(0.0001, 86_400))
@settings(deadline=None, max_examples=300)
def test_a_length_is_never_rounded_down_nor_more_than_once(seconds: float) -> None:
    exact = ceil(Fraction(Decimal(repr(seconds))) * 1000)
    assert milliseconds(seconds, 86_400_000) == milliseconds(repr(seconds), 86_400_000) == exact


@given(thousandths=st.integers(1, 86_400_000))
@settings(deadline=None, max_examples=300)
def test_whole_milliseconds_stay_what_they_are(thousandths: int) -> None:
    assert milliseconds(thousandths / 1000, 86_400_000) == thousandths
