"""One parser reads and locates: what we read is what the upstream reads, and nothing else changes."""

from __future__ import annotations

import json
import time
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oxyy_proxy.errors import InvalidJson
from oxyy_proxy.rules.jsonbody import MAX_DEPTH, JsonBody

SPACE = st.text(" \t\r\n", max_size=3)
CHARACTERS = st.characters(exclude_categories=["Cs"])
SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(CHARACTERS),
)
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(CHARACTERS, max_size=3), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["model", "stream", "stream_options", "messages", "n", "é", '"', "\\", "}", "{", ":", ""])


@st.composite
def spelled(draw: st.DrawFn, text: str) -> str:
    """A JSON string in one of its spellings."""
    pieces = []
    for character in text:
        plain = json.dumps(character, ensure_ascii=False)[1:-1]
        escaped = "".join(f"\\u{unit:04x}" for unit in _utf16(character))
        pieces.append(draw(st.sampled_from([plain, plain, escaped])))
    return f'"{"".join(pieces)}"'


def _utf16(character: str) -> list[int]:
    raw = character.encode("utf-16-be")
    return [int.from_bytes(raw[at : at + 2], "big") for at in range(0, len(raw), 2)]


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """A JSON value as somebody may write it: whitespace and escapes at will."""
    if isinstance(value, str):
        return draw(spelled(value))
    if isinstance(value, list):
        items = [draw(SPACE) + draw(written(item)) + draw(SPACE) for item in value]
        return "[" + (",".join(items) or draw(SPACE)) + "]"
    if isinstance(value, dict):
        pairs = [(draw(spelled(name)), draw(written(item))) for name, item in value.items()]
        return "{" + ",".join(draw(SPACE) + name + draw(SPACE) + ":" + draw(SPACE) + item for name, item in pairs) + "}"
    return json.dumps(value)


@st.composite
def bodies(draw: st.DrawFn) -> list[tuple[str | None, str]]:
    """A body as pieces: (the member whose value it is, text); None for what stands between values."""
    members = draw(st.dictionaries(NAMES | st.text(CHARACTERS, max_size=4), VALUE, max_size=5))
    pieces: list[tuple[str | None, str]] = [(None, draw(SPACE) + "{"), (None, draw(SPACE))]
    for at, (name, value) in enumerate(members.items()):
        between = ("," if at else "") + draw(SPACE) + draw(spelled(name)) + draw(SPACE) + ":" + draw(SPACE)
        pieces += [(None, between), (name, draw(written(value))), (None, draw(SPACE))]
    return [*pieces, (None, "}" + draw(SPACE))]


def joined(pieces: list[tuple[str | None, str]]) -> bytes:
    return "".join(text for _, text in pieces).encode()


@given(pieces=bodies())
@settings(deadline=None, max_examples=80)
def test_members_are_what_json_loads_reads(pieces: list[tuple[str | None, str]]) -> None:
    raw = joined(pieces)
    body = JsonBody(raw)
    assert body.members == json.loads(raw)
    assert list(body.members) == list(json.loads(raw))
    assert body.raw == raw
    assert body.replaced({}) == raw


@given(pieces=bodies(), changes=st.dictionaries(NAMES, VALUE, min_size=1, max_size=4))
@settings(deadline=None, max_examples=80)
def test_replaced_changes_the_named_members_and_no_other_byte(
    pieces: list[tuple[str | None, str]], changes: dict[str, Any]
) -> None:
    body = JsonBody(joined(pieces))
    replaced = body.replaced(changes)
    assert json.loads(replaced) == {**body.members, **changes}
    JsonBody(replaced)  # no key twice, nothing broken
    # Where nothing is added, this is all of it; else what is added stands after the last value.
    last = max((at for at, (name, _) in enumerate(pieces) if name is not None), default=0)
    texts = [json.dumps(changes[name], separators=(",", ":")) if name in changes else text for name, text in pieces]
    before, after = "".join(texts[: last + 1]), "".join(texts[last + 1 :])
    text = replaced.decode()
    assert text.startswith(before)
    assert text.endswith(after)
    added = text[len(before) : len(text) - len(after)]
    absent = {name: value for name, value in changes.items() if name not in body.members}
    assert json.loads("{" + added.removeprefix("," if body.members else "") + "}") == absent


@pytest.mark.parametrize(
    ("raw", "changes", "expected"),
    [
        (b'{"model": "a", "n": 1.0}', {"model": "b"}, b'{"model": "b", "n": 1.0}'),
        (b'{"mod\\u0065l": "a"}', {"model": "b"}, b'{"mod\\u0065l": "b"}'),
        (b'{\n  "n": 1e2 \n}\n', {"model": "b"}, b'{\n  "n": 1e2,"model":"b" \n}\n'),
        (b" { \n} ", {"model": "b"}, b' {"model":"b" \n} '),
        (b'{"b":1,"a":2}', {"a": [1, 2], "b": None, "c": {}}, b'{"b":null,"a":[1,2],"c":{}}'),
        (b'{"x":"}","y":{"model":"in"}}', {"model": "b"}, b'{"x":"}","y":{"model":"in"},"model":"b"}'),
        ('{"x":"é🎈","model":"ü"}'.encode(), {"model": "b"}, '{"x":"é🎈","model":"b"}'.encode()),
    ],
)
def test_replaced_keeps_spelling_and_blanks(raw: bytes, changes: dict[str, Any], expected: bytes) -> None:
    assert JsonBody(raw).replaced(changes) == expected


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","n":1,"model":"a"}',
        b'{"model":"a","mod\\u0065l":"b"}',
        b'{"\\u006d\\u006f\\u0064\\u0065\\u006c":"a","model":"b"}',
        b'{"\\ud83c\\udf88":1,"\xf0\x9f\x8e\x88":2}',
        b'{"a\\/b":1,"a/b":2}',
        b'{"model" : "a","x":{"model":"c"},"model"\n:"b"}',
        b'{"a-b":1,"a-b":2}',
        b'{"1":1,"1":2}',
        b'{"x\\"a":1,"x\\"a":2}',
        b'{"a":1,"' + b"x" * 20_000 + b'":2,"a":3}',
        b'{"":1,"":2}',
    ],
)
def test_a_key_twice_is_refused_in_any_spelling(raw: bytes) -> None:
    with pytest.raises(InvalidJson, match="twice"):
        JsonBody(raw)


def test_half_a_surrogate_pair_is_read_and_passed_on() -> None:
    body = JsonBody(b'{"\\ud83c":"\\udf88","model":"a"}')
    assert body.members == {"\ud83c": "\udf88", "model": "a"}
    assert body.replaced({"model": "b"}) == b'{"\\ud83c":"\\udf88","model":"b"}'


def test_a_key_twice_further_down_is_the_upstreams_to_judge() -> None:
    raw = b'{"a":{"x":1,"x":2},"b":[{"x":1,"\\u0078":2}]}'
    assert JsonBody(raw).members == {"a": {"x": 2}, "b": [{"x": 2}]}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"[]",
        b'[{"model":"a"}]',
        b"1",
        b"null",
        b'"{}"',
        b"{",
        b"}",
        b'{"a"}',
        b'{"a":}',
        b'{"a":1',
        b'{"a":1,}',
        b'{"a":[1,]}',
        b"{,}",
        b'{"a":1 "b":2}',
        b'{"a":1;"b":2}',
        b"{'a':1}",
        b"{a:1}",
        b"{1:1}",
        b'{"a":01}',
        b'{"a":+1}',
        b'{"a":.5}',
        b'{"a":1.}',
        b'{"a":0x10}',
        b'{"a":True}',
        b'{"a":"\x01"}',
        b'{"a":"\\x41"}',
        b'{"a":"\\u00g0"}',
        b'{"a":1}{"b":2}',
        b'{"a":1} x',
        b'{"a":1}\x00',
        b'{"a":1}\x0c',
        b'\xc2\xa0{"a":1}',
        b'{"a":1}//comment',
        b'{"a":/**/1}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":[-Infinity]}',
        b'{"a":{"b":NaN}}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xc0\xaf"}',
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-16-le"),
        '{"a":1}'.encode("utf-16-be"),
        '{"a":1}'.encode("utf-32"),
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"' + b"x" * 100,
        b'{"a":' + b"[" * 100_000,
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * 100_000,
    ],
    ids=lambda raw: repr(raw[:24]),
)
def test_what_is_not_one_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidJson) as caught:
        JsonBody(raw)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")
    assert len(caught.value.message) < 300


def nested(depth: int, opening: str, closing: str) -> bytes:
    """A body whose deepest value is `depth` levels down; the body itself is the first."""
    return f'{{"a":{opening * (depth - 1)}{closing * (depth - 1)}}}'.encode()


@pytest.mark.parametrize("padding", ["", ' ,"s":"[[[["', ' ,"t":"\\"[{"', ' ,"u":[[],{},[{}]]'])
def test_a_depth_of_128_is_read_and_129_refused(padding: str) -> None:
    def body(depth: int) -> bytes:
        return nested(depth, "[", "]")[:-1] + padding.encode() + b"}"

    assert MAX_DEPTH == 128
    JsonBody(body(MAX_DEPTH))
    with pytest.raises(InvalidJson, match="128"):
        JsonBody(body(MAX_DEPTH + 1))


def test_objects_count_as_depth_like_arrays() -> None:
    for depth, ok in ((127, True), (128, True), (129, False)):
        raw = b'{"a":' * depth + b"1" + b"}" * depth
        if ok:
            JsonBody(raw)
        else:
            with pytest.raises(InvalidJson):
                JsonBody(raw)


@pytest.mark.parametrize("text", ["[" * 5000, "{[" * 900, '\\"[' * 500, "\\\\" * 300 + "[" * 300, "]" * 400])
def test_brackets_inside_strings_are_no_depth(text: str) -> None:
    raw = f'{{"{text}":["{text}"], "b":"{text}"}}'.encode()
    assert JsonBody(raw).members["b"] == json.loads(f'"{text}"')


def test_a_number_of_any_size_passes_as_it_was_written() -> None:
    raw = b'{"seed":1000000000000000000000000000001,"x":1e400,"y":0.10000000000000000001}'
    body = JsonBody(raw)
    assert type(body.members["seed"]) in (int, float)
    assert body.replaced({"model": "a"}) == raw[:-1] + b',"model":"a"}'


def test_a_body_of_many_keys_takes_linear_time() -> None:
    raw = b"{" + b",".join(b'"k%d":{"a":1}' % at for at in range(20_000)) + b"}"
    began = time.process_time()
    assert len(JsonBody(raw).members) == 20_000
    assert time.process_time() - began < 2
    with pytest.raises(InvalidJson, match="twice"):
        JsonBody(raw[:-1] + b',"k7":1}')


def test_many_shallow_values_are_no_depth() -> None:
    raw = b'{"input":[' + b"[1]," * 10_000 + b"[1]]}"
    assert len(JsonBody(raw).members["input"]) == 10_001


FRAGMENTS = st.sampled_from(
    [
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b":",
        b",",
        b"\\",
        b"\\u",
        b"0",
        b"-",
        b"1e9",
        b"NaN",
        b"null",
        b'"a"',
        b'"a":1',
        b" ",
    ]
)


@given(raw=st.binary(max_size=60) | st.lists(FRAGMENTS, max_size=20).map(lambda parts: b"{" + b"".join(parts)))
@example(raw=b'{"a":1,"')
@example(raw=b'{"a"')
@example(raw=b'{"a":-')
@settings(deadline=None, max_examples=300)
def test_random_bytes_are_read_as_json_reads_them_or_refused(raw: bytes) -> None:
    try:
        body = JsonBody(raw)
    except InvalidJson:
        return
    assert body.members == json.loads(raw)


@pytest.mark.parametrize(
    "raw",
    [b'{"a": {"b": 1, "b": 2}}', b'{"a": [{"b": [{"c": 1, "\\u0063": 2}]}]}', b'{"a": [1, {"": 0, "": 0}]}'],
)
def test_a_key_twice_below_the_top_is_refused_where_it_matters(raw: bytes) -> None:
    body = JsonBody(raw)  # as such it is taken
    with pytest.raises(InvalidJson, match="twice in one object"):
        body.require_unique()


def test_the_same_key_in_several_objects_is_not_twice() -> None:
    JsonBody(b'{"a": {"b": 1}, "b": [{"b": 1}, {"b": {"b": 2}}]}').require_unique()


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=3), NESTED, max_size=4), st.text(max_size=3), NESTED, NESTED, st.booleans())
@settings(deadline=None)
def test_a_body_as_clients_write_it_is_unique_and_one_with_a_key_twice_anywhere_is_not(
    members: dict[str, Any], key: str, first: object, second: object, compact: bool
) -> None:
    separators = (",", ":") if compact else None
    JsonBody(json.dumps(members, separators=separators, ensure_ascii=False).encode()).require_unique()
    twice = orjson.dumps({key: first})[:-1] + b"," + orjson.dumps({key: second})[1:]
    body = JsonBody(b'{"a":[%b]}' % twice)
    with pytest.raises(InvalidJson, match="twice in one object"):
        body.require_unique()
    with pytest.raises(InvalidJson, match="twice"):
        JsonBody(twice)
