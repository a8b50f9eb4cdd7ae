"""A form is the same form, whatever the network made of its bytes, and each value stands where the reader says."""

from __future__ import annotations

import re
import time
import tracemalloc
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oxyy_proxy.errors import InvalidValue, MalformedRequest
from oxyy_proxy.rules.multipart import MAX_FIELD_BYTES, Form, FormReader, Pieces, Span, is_form

BCHARS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'()+_,-./:=?"

TEXT_NAMES = ["model", "prompt", "n", "größe", "a b", "timestamp_granularities[]", "include[]"]
FILE_NAMES = ["file", "image", "image[]", "mask"]
FILENAMES = [
    "a.mp3",
    "Grüße 日本.png",
    "C:\\music\\a.mp3",
    "a;b=c.png",
    "it%22s.png",
    "",
    "Screenshot 3.00.00\u202fPM.png",
]

BOUNDARY = st.builds(
    lambda text, last: text + last,
    st.text(BCHARS + " ", max_size=69).filter(lambda text: not text.startswith(" ")),
    st.sampled_from("0aZ"),
)
# (name, filename or None, content type, bytes)
PART = st.one_of(
    st.tuples(st.sampled_from(TEXT_NAMES), st.none(), st.sampled_from(["", "text/plain"]), st.binary(max_size=30)),
    st.tuples(
        st.sampled_from(FILE_NAMES),
        st.sampled_from(FILENAMES),
        st.sampled_from(["", "image/png", "application/octet-stream"]),
        st.binary(max_size=200),
    ),
)
PARTS = st.lists(PART, min_size=1, max_size=6, unique_by=lambda part: part[0] if part[1] is None else object())
"""Text fields stand there once, files as often as they come."""


def form_of(boundary: str, parts: Iterable[tuple[str, str | None, str, bytes]]) -> bytes:
    body = b""
    for name, filename, content_type, value in parts:
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        body += b"" if filename is None else f'; filename="{filename}"'.encode()
        body += f"\r\nContent-Type: {content_type}".encode() if content_type else b""
        body += b"\r\n\r\n" + value + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


def cut(body: bytes, at: Iterable[int]) -> list[bytes]:
    """The body in pieces, cut at these offsets."""
    ends = sorted({0, len(body), *(min(offset, len(body)) for offset in at)})
    return [body[start:end] for start, end in pairwise(ends)]


def read(body: bytes, boundary: str, at: Iterable[int] = ()) -> Form:
    reader = FormReader(f'multipart/form-data; boundary="{boundary}"')
    for piece in cut(body, at):
        reader.feed(piece)
    return reader.finish()


def assembled(pieces: Pieces, body: bytes) -> bytes:
    return b"".join(piece if isinstance(piece, bytes) else body[piece.start : piece.end] for piece in pieces)


@given(BOUNDARY, PARTS, st.lists(st.integers(0, 2000)), st.booleans())
@example("x", [("file", "a", "", b"\r\n--\r\n-\r\r\n--")], [], True)
@example("----a", [("file", "a", "", b"\r\n------"), ("model", None, "", b"\r\n--")], [], True)
@example("a", [("model", None, "", b""), ("file", "", "", b"")], [], True)
def test_every_value_is_found_where_it_stands_however_the_body_is_cut(boundary, parts, at, byte_by_byte) -> None:
    parts = [(*rest, re.sub(b"-+" + re.escape(boundary.encode()), b"", value)) for *rest, value in parts]
    body = form_of(boundary, parts)
    form = read(body, boundary, range(len(body)) if byte_by_byte else at)
    assert [(part.name, part.filename, part.content_type) for part in form.parts] == [part[:3] for part in parts]
    for part, (_, filename, _, value) in zip(form.parts, parts, strict=True):
        assert body[part.at : part.at + part.size_bytes] == value
        assert part.value == (value if filename is None else None)
    assert (form.size_bytes, form.boundary) == (len(body), boundary)


def bytes_of(form: Form, body: bytes) -> list[tuple[str, str | None, bytes]]:
    return [(part.name, part.filename, body[part.at : part.at + part.size_bytes]) for part in form.parts]


@given(
    PARTS,
    st.dictionaries(st.sampled_from(["model", "prompt", "n", "response_format"]), st.text("aé1-", max_size=9)),
    st.lists(st.integers(0, 2000)),
)
def test_setting_fields_changes_these_and_not_a_byte_of_any_other(parts, fields, at) -> None:
    body = form_of("xyzzy", parts)
    form = read(body, "xyzzy", at)
    changed = assembled(form.with_fields(fields), body)
    present = {part.name for part in form.parts}
    new = [(name, None, value.encode()) for name, value in fields.items() if name not in present]
    kept = [
        (name, filename, fields[name].encode() if name in fields else value)
        for name, filename, value in bytes_of(form, body)
    ]
    assert bytes_of(read(changed, "xyzzy", at), changed) == new + kept


FORM = [
    ("model", None, "", b"cheap"),
    ("file", "a.mp3", "audio/mpeg", b"ID3\x00"),
    ("prompt", None, "", "Grüße".encode()),
]


def test_a_model_is_spliced_in_place_between_spans_of_the_original() -> None:
    body = form_of("b", FORM)
    at = body.index(b"cheap")
    assert read(body, "b").with_fields({"model": "dear"}) == (Span(0, at), b"dear", Span(at + 5, len(body)))


def test_a_field_that_is_absent_becomes_the_first_part() -> None:
    body = form_of("b", FORM[1:])
    added = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ndear\r\n'
    assert read(body, "b").with_fields({"model": "dear"}) == (added, Span(0, len(body)))


def test_nothing_to_set_is_the_body_as_it_came() -> None:
    body = form_of("b", FORM)
    assert read(body, "b").with_fields({}) == (Span(0, len(body)),)


@pytest.mark.parametrize("before", ["", "X-Note: content-length: 9\r\n"])
def test_the_length_that_a_part_declares_follows_its_new_value(before: str) -> None:
    # As OkHttp writes it; the parser holds a part to its Content-Length, and so may the upstream.
    head = f'--b\r\n{before}Content-Disposition: form-data; name="model"\r\ncontent-length:  5\r\n\r\n'
    body = head.encode() + b"cheap\r\n--b--\r\n"
    for at in ([], range(len(body))):
        changed = assembled(read(body, "b", at).with_fields({"model": "much-dearer"}), body)
        assert changed == body.replace(b"  5", b"  11").replace(b"cheap", b"much-dearer")
        assert read(changed, "b").text("model") == "much-dearer"


@pytest.mark.parametrize(
    ("name", "value"), [("model", "a--b"), ("model", "--b--"), ('m"', "x"), ("a\r\nb", "x"), ("", "x")]
)
def test_a_value_or_name_that_would_break_the_form_cannot_be_set(name: str, value: str) -> None:
    with pytest.raises(ValueError):
        read(form_of("b", FORM), "b").with_fields({name: value})


def test_a_file_cannot_be_set_as_text() -> None:
    with pytest.raises(InvalidValue) as refusal:
        read(form_of("b", FORM), "b").with_fields({"file": "x"})
    assert refusal.value.param == "file"


def test_text_is_the_field_or_none_where_there_is_none() -> None:
    form = read(form_of("b", [*FORM, ("empty", None, "", b"")]), "b")
    assert (form.text("model"), form.text("prompt"), form.text("empty")) == ("cheap", "Grüße", "")
    assert form.text("response_format") is None


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("file", FORM),
        ("n", [("n", "", "", b"10")]),  # to some parsers an empty filename is a text field
        ("prompt", [("prompt", None, "", b"\xff")]),
        ("a[]", [("a[]", None, "", b"1"), ("a[]", None, "", b"2")]),
    ],
)
def test_what_is_not_one_text_is_refused_as_such(name, parts) -> None:
    with pytest.raises(InvalidValue) as refusal:
        read(form_of("b", parts), "b").text(name)
    assert refusal.value.param == name


def test_files_are_found_by_any_of_their_names_in_their_order() -> None:
    parts = [("image[]", "1", "", b"a"), ("mask", "m", "", b""), ("image", "2", "", b""), ("model", None, "", b"x")]
    form = read(form_of("b", [*parts, parts[0]]), "b")
    assert [part.filename for part in form.files("image", "image[]")] == ["1", "2", "1"]
    assert form.files("model") == ()


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("multipart/form-data; boundary=x", True),
        ("Multipart/Form-Data ;boundary=x", True),
        ("multipart/form-data", True),
        ("multipart/mixed; boundary=x", False),
        ("multipart/form-data-x", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_a_form_is_known_by_its_media_type(content_type: str, expected: bool) -> None:
    assert is_form(content_type) is expected


# As captured from a socket, or as the client's source writes it: Content-Type, the parts, what the files are called.
# Each line ends in CRLF.
NAME = "Content-Disposition: form-data; name="
CLIENTS = {
    "openai-python-3.54": (
        "multipart/form-data; boundary=1e8f1098107af5b1bb7be8e46243caa3",
        (
            f'{NAME}"model"\n\nwhisper-1',
            f'{NAME}"timestamp_granularities[]"\n\nword',
            f'{NAME}"timestamp_granularities[]"\n\nsegment',
            f'{NAME}"file"; filename="a.mp3"\nContent-Type: audio/mpeg\n\nID3',
        ),
        [("file", "a.mp3")],
    ),
    "openai-python-3.54, images": (
        "multipart/form-data; boundary=decca6bd757b211823071704aca7013a",
        (
            f'{NAME}"prompt"\n\nGrüße',
            f'{NAME}"model"\n\nwhisper-1',
            f'{NAME}"n"\n\n2',
            f'{NAME}"image[]"; filename="a.png"\nContent-Type: image/png\n\nPNG\n',
            f'{NAME}"image[]"; filename="é.png"\nContent-Type: image/png\n\n',
        ),
        [("image[]", "a.png"), ("image[]", "é.png")],
    ),
    "openai-node, by undici of node-20": (
        "multipart/form-data; boundary=----formdata-undici-013957883054",
        (
            f'{NAME}"model"\n\nwhisper-1',
            f'{NAME}"a%22b"\n\nx\ny',
            f'{NAME}"file"; filename="é%22a.mp3"\nContent-Type: audio/mpeg\n\nID3',
        ),
        [("file", "é%22a.mp3")],
    ),
    "chromium": (
        "multipart/form-data; boundary=----WebKitFormBoundaryePkpFF7tjBAqx29L",
        (
            f'{NAME}"file"; filename="a.mp3"\nContent-Type: audio/mpeg\n\nID3',
            f'{NAME}"mask"; filename=""\nContent-Type: application/octet-stream\n\n',
            f'{NAME}"model"\n\nwhisper-1',
        ),
        [("file", "a.mp3"), ("mask", "")],
    ),
    "curl-7.88": (
        "multipart/form-data; boundary=------------------------70d9c9b39c45dcc7",
        (
            f'{NAME}"file"; filename="é%22x"\nContent-Type: application/octet-stream\n\nID3',
            f'{NAME}"model"\n\nwhisper-1',
        ),
        [("file", "é%22x")],
    ),
    "requests, by urllib3-2.8": (
        "multipart/form-data; boundary=d27d1778e893262d418234241c7e736a",
        (
            f'{NAME}"model"\n\nwhisper-1',
            f'{NAME}"file"; filename="é a%22b.mp3"\nContent-Type: audio/mpeg\n\nID3',
        ),
        [("file", "é a%22b.mp3")],
    ),
    "urllib3-1.24": (
        "multipart/form-data; boundary=5f0d6e1f2a3b4c5d6e7f8091a2b3c4d5",
        (
            f'{NAME}"model"\n\nwhisper-1',
            f"{NAME}\"file\"; filename*=utf-8''%C3%A9.mp3\n\nID3",
        ),
        [("file", "é.mp3")],
    ),
    "aiohttp-3.14": (
        "multipart/form-data; boundary=e5a19c1379074446af99c492c8be6be1",
        (
            f'Content-Type: text/plain; charset=utf-8\n{NAME}"model"\n\nwhisper-1',
            f'Content-Type: application/octet-stream\n{NAME}"file"; filename="%C3%A9%20a.mp3"\n\nID3',
        ),
        [("file", "%C3%A9%20a.mp3")],
    ),
    "go mime/multipart": (
        "multipart/form-data; boundary=2f0fc5f3d6c9a1b8e7d4c3b2a190f8e7d6c5b4a392817f6e5d4c3b2a1908",
        (
            f'{NAME}"model"\n\nwhisper-1',
            f'{NAME}"file"; filename="a.mp3"\nContent-Type: application/octet-stream\n\nID3',
        ),
        [("file", "a.mp3")],
    ),
    "dotnet HttpClient": (
        'multipart/form-data; boundary="c1d3a7c2-7a4b-4f5e-9d63-4a2b8a1f0e57"',
        (
            f"Content-Type: text/plain; charset=utf-8\n{NAME}model\n\nwhisper-1",
            f"{NAME}file; filename=a.mp3; filename*=utf-8''a%C3%A9.mp3\n\nID3",
        ),
        [("file", "a.mp3")],
    ),
    "okhttp": (
        "multipart/form-data; boundary=1c6bbd64-9aa1-4a4e-8e6c-6d5f8d1a2b3c",
        (
            f'{NAME}"model"\nContent-Length: 9\n\nwhisper-1',
            f'{NAME}"file"; filename="a.mp3"\nContent-Type: audio/mpeg\nContent-Length: 3\n\nID3',
        ),
        [("file", "a.mp3")],
    ),
}


@pytest.mark.parametrize("client", CLIENTS)
def test_the_bytes_of_real_clients_are_read(client: str) -> None:
    content_type, parts, files = CLIENTS[client]
    delimiter = "--" + content_type.partition("boundary=")[2].strip('"')
    text = "".join(f"{delimiter}\n{part}\n" for part in parts) + f"{delimiter}--\n"
    body = text.replace("\n", "\r\n").encode()
    for size in (len(body), 7, 1):
        reader = FormReader(content_type)
        for piece in cut(body, range(0, len(body), size)):
            reader.feed(piece)
        form = reader.finish()
        assert form.text("model") == "whisper-1"
        assert [(part.name, part.filename) for part in form.parts if part.filename is not None] == files
    dearer = assembled(form.with_fields({"model": "x"}), body)
    assert len(dearer) == len(body) - 8
    other = FormReader(content_type)
    other.feed(dearer)
    assert other.finish().text("model") == "x"


@pytest.mark.parametrize("near", [b"\r\n--", b"\r\n--bound", b"\r\n--boundar\r\n", b"--boundar", b"\r\r\n-", b"\r"])
def test_a_file_may_hold_what_looks_like_its_boundary(near: bytes) -> None:
    value = near * 3 + b"\x00" + near
    body = form_of("boundary", [("file", "a", "", value), ("model", None, "", b"m")])
    for size in (1, 2, 3, len(body)):
        form = read(body, "boundary", range(0, len(body), size))
        assert [part.size_bytes for part in form.parts] == [len(value), 1]


def test_a_form_holds_as_much_text_as_the_limit_says_in_all_its_fields() -> None:
    half = b"x" * (MAX_FIELD_BYTES // 2)
    parts = [("a", None, "", half), ("file", "f", "", half * 3), ("b", None, "", half)]
    assert read(form_of("b", parts), "b").text("a") == half.decode()
    with pytest.raises(MalformedRequest):
        read(form_of("b", [*parts, ("c", None, "", b"x")]), "b")


@pytest.mark.parametrize("filler", [b"\x00", b"\r", b"\r\n--boundar"])
def test_a_large_file_costs_little_time_and_no_memory(filler: bytes) -> None:
    size = 25_000_000
    reader = FormReader("multipart/form-data; boundary=boundary")
    head, tail = form_of("boundary", [("file", "a", "", b"|")]).split(b"|")
    piece = (filler * 65536)[:65536]
    tracemalloc.start()
    try:
        for data in (head, *[piece] * 40, b""):
            reader.feed(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    started = time.process_time()
    for _ in range(size // len(piece) - 40):
        reader.feed(piece)
    assert time.process_time() - started < 1.0  # measured: 0.01 to 0.05 s
    reader.feed(tail)
    assert reader.finish().parts[0].size_bytes == size // len(piece) * len(piece)
