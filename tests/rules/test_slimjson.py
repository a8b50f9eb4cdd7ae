"""What is left of a JSON text says the same, is small, and is broken where the text was."""

from __future__ import annotations

import json
import random
import re
import time
import tracemalloc
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oxyy_proxy.rules import slimjson
from oxyy_proxy.rules.slimjson import BLOCK_BYTES, MAX_LEVELS, MAX_RUN_BYTES, Slimmer

LONG = MAX_RUN_BYTES + 1

HALVES = "".join(map(chr, range(0xD800, 0xDC00)))

TEXT = st.one_of(
    st.text(max_size=20),
    st.builds(
        lambda unit, times, rest: unit * times + rest,
        st.text(st.sampled_from('ab\\"/,:[]{}\n\x00é日🎈1 '), min_size=1, max_size=6),
        st.integers(1, 700),
        st.text(max_size=3),
    ),
)
NUMBER = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
NUMBERS = st.builds(lambda some, times: some * times, st.lists(NUMBER, max_size=5), st.integers(1, 100))
MIXED = st.builds(lambda front, rest: front + rest, NUMBERS, st.lists(st.one_of(TEXT, NUMBERS, st.none()), max_size=3))
SCALAR = st.one_of(st.none(), st.booleans(), NUMBER, TEXT)
VALUE = st.recursive(
    st.one_of(SCALAR, NUMBERS, MIXED),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=8), inner, max_size=4),
        st.builds(lambda value: [[[[[[value]]], 1]]], inner),
    ),
    max_leaves=12,
)
WRITTEN = st.builds(
    lambda value, indent, is_ascii: (value, json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode()),
    st.one_of(st.lists(VALUE, min_size=1, max_size=4), st.dictionaries(st.text(max_size=8), VALUE, max_size=4)),
    st.sampled_from([None, 1, 80]),
    st.booleans(),
)


def slim(*pieces: bytes) -> bytes:
    return slimmed(*pieces)[0]


def slimmed(*pieces: bytes) -> tuple[bytes, Slimmer]:
    slimmer = Slimmer()
    for piece in pieces:
        slimmer.feed(piece)
    return slimmer.finish(), slimmer


def cut(raw: bytes, at: list[int]) -> list[bytes]:
    """`raw` in pieces, cut at these offsets; some may be empty."""
    bounds = [0, *sorted(min(offset, len(raw)) for offset in at), len(raw)]
    return [raw[start:end] for start, end in pairwise(bounds)]


def assert_alike(whole: Any, left: Any, level: int = 1) -> None:
    """`left` has the structure of `whole`, and all that is short."""
    if isinstance(whole, list | dict) and level > MAX_LEVELS:
        assert left == type(whole)()
    elif isinstance(whole, dict):
        assert list(left) == list(whole)
        for name, value in whole.items():
            assert_alike(value, left[name], level + 1)
    elif isinstance(whole, list):
        assert_elements_alike(whole, left, level)
    elif isinstance(whole, str) and left != whole:
        assert len(json.dumps(whole)) > MAX_RUN_BYTES
        assert re.fullmatch(r"(?s).*\.{16}", left)
        assert len(left) > 64
        assert whole.startswith(left[:-16].rstrip(".").rstrip(HALVES))
    else:
        assert (type(left), left) == (type(whole), whole)


def assert_elements_alike(whole: list[Any], left: list[Any], level: int) -> None:
    """All are there save numbers, of which both ends of a long row are, too."""
    if len(left) < len(whole):
        assert len(json.dumps(whole, indent=80 * (level + 1))) > MAX_RUN_BYTES
        assert is_number(whole[0]) <= (left[0] == whole[0])
        assert is_number(whole[-1]) <= (left[-1] == whole[-1])
    rest = iter(whole)
    for one in left:
        match = next(rest)
        while is_number(match) and not (is_number(one) and one == match):
            match = next(rest)
        assert_alike(match, one, level + 1)
    assert all(is_number(one) for one in rest)


def is_number(value: object) -> bool:
    return type(value) in (int, float)


# What is left.


@given(WRITTEN, st.lists(st.integers(0, 5000), max_size=6))
@settings(max_examples=150, deadline=None)
def test_what_is_left_has_the_same_structure_and_all_that_is_short(written: tuple[Any, bytes], at: list[int]) -> None:
    value, raw = written
    left = slim(raw)
    assert slim(*cut(raw, at)) == left
    assert_alike(value, json.loads(left))


@pytest.mark.parametrize("block_bytes", [16, 100, 600, 1100])
@given(written=WRITTEN)
@settings(max_examples=40, deadline=None)
def test_that_holds_wherever_the_borders_of_blocks_lie(block_bytes: int, written: tuple[Any, bytes]) -> None:
    value, raw = written
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slimjson, "BLOCK_BYTES", block_bytes)
        left = slim(raw)
    assert_alike(value, json.loads(left))


EVERYTHING = {
    "text": 'Grüße 日本語 🎈 "\\" \\\\" \n\x01' * 60,
    'a key with \\ and " and ü': "",
    "row": [0.125, -3e-07, 12345678] * 60,
    "mixed": [1, 2, 3, "x", {"y": [4, 5]}, *range(300), {"z": "\\" * 700}, *range(300), None, [6]],
    "deep": [[[[[[[["out of sight", 1]]]], "near"]]]],
    "usage": {"prompt_tokens": 5, "details": {"cached_tokens": 3}},
}


@pytest.mark.parametrize("block_bytes", [16, 700, 64 * 1024])
@pytest.mark.parametrize("is_ascii", [False, True])
def test_nothing_depends_on_where_the_text_was_cut_on_its_way(
    is_ascii: bool, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slimjson, "BLOCK_BYTES", block_bytes)
    raw = json.dumps(EVERYTHING, ensure_ascii=is_ascii).encode()
    left = slim(raw)
    assert_alike(EVERYTHING, json.loads(left))
    assert slim(*(raw[at : at + 1] for at in range(len(raw)))) == left
    for at in range(0, len(raw), 3 if block_bytes == 700 else 37):
        assert slim(raw[:at], raw[at:]) == left


@pytest.mark.parametrize("unit", ["\\\\", '\\"', "\\u65e5", "日", "é", "🎈", "\\uD83C\\udf88", "\\n", '\\\\\\"'])
def test_no_border_of_a_block_falls_within_an_escape_or_a_character(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slimjson, "BLOCK_BYTES", 1024)
    for before in range(12):
        # A short part of the string before the border, and a long one behind it that is cut where it begins.
        raw = (
            b'["' + b"x" * 300 + b'","' + b"x" * 300 + b'",{"a":"' + b"x" * before + unit.encode() * 700 + b'","b":1}]'
        )
        assert len(raw) > 1024 + LONG
        whole, left = orjson.loads(raw)[2], json.loads(slim(raw))[2]
        assert left["b"] == 1
        assert whole["a"].startswith(left["a"].rstrip(".").rstrip(HALVES))
        assert len(left["a"]) < len(whole["a"])


def test_a_quote_behind_a_border_is_escaped_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slimjson, "BLOCK_BYTES", 1024)
    for before in range(3060, 3075):
        assert orjson.loads(slim(b'{"a":"' + b"x" * before + b'\\" , ","b":1}'))["b"] == 1


def test_a_string_at_the_limit_is_kept_and_a_longer_one_keeps_its_beginning() -> None:
    kept, cut_short = "x" * MAX_RUN_BYTES, "x" * LONG
    left, slimmer = slimmed(json.dumps([kept, cut_short, "é" + cut_short]).encode())
    assert json.loads(left) == [kept, "x" * 64 + "." * 16, "." * 80]
    assert slimmer.dropped_bytes == 2 * (LONG - 80) + len("\\u00e9")


def test_a_row_of_numbers_keeps_its_first_and_its_last() -> None:
    short, long = [1] * (MAX_RUN_BYTES // 2), [1.5, *range(300), -2.5e-7]
    raw = json.dumps({"s": short, "l": long, "n": [long, long], "t": [*long, "x", *long]}, separators=(",", ":"))
    left = json.loads(slim(raw.encode()))
    assert left == {"s": short, "l": [1.5, -2.5e-7], "n": [[1.5, -2.5e-7]] * 2, "t": [1.5, "x", -2.5e-7]}


def test_space_is_kept_where_it_parts_two_numbers() -> None:
    assert slim(b'{"a":' + b" \n" * 5000 + b"[1]}") == b'{"a": [1]}'
    assert not is_json(slim(b"[1" + b" " * 5000 + b"2]"))


def test_what_is_too_deep_is_left_out() -> None:
    levels = MAX_LEVELS + 1
    raw = b'{"a":' * (levels - 1) + b'[{"b":"]"},[1],2]' + b"}" * (levels - 1)
    assert slim(raw) == b'{"a":' * (levels - 1) + b"[]" + b"}" * (levels - 1)
    raw = b'{"a":' * (levels - 2) + b'[{"b":"]"},[1],2]' + b"}" * (levels - 2)
    assert slim(raw) == b'{"a":' * (levels - 2) + b"[{},[],2]" + b"}" * (levels - 2)


def test_a_long_key_is_never_taken_for_another() -> None:
    left = json.loads(slim(b'{"usage' + b" " * LONG + b'":1,"' + b"\\u0075" * LONG + b'":2,"usage":3}'))
    assert left.pop("usage") == 3
    assert len(left) == 2
    assert all(len(key) == 80 and key.endswith("....") for key in left)


def test_the_bytes_left_out_of_strings_are_counted() -> None:
    text = "A story. " * 40_000
    left, slimmer = slimmed(json.dumps({"a": text, "row": [1] * 9999}).encode())
    assert len(json.loads(left)["a"]) + slimmer.dropped_bytes == len(text)


# What is broken stays broken.


@given(WRITTEN, st.data())
@example(({"a": "\\" * 600}, json.dumps({"a": "\\" * 600}).encode()), None)
@settings(max_examples=100, deadline=None)
def test_a_text_that_breaks_off_is_never_json(written: tuple[Any, bytes], data: st.DataObject | None) -> None:
    raw = written[1]
    cuts = range(len(raw)) if data is None else [data.draw(st.integers(0, len(raw) - 1)) for _ in range(8)]
    for at in cuts:
        assert not is_json(slim(raw[:at]))


@pytest.mark.parametrize("block_bytes", [16, 600, 64 * 1024])
def test_no_beginning_of_a_text_is_json(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slimjson, "BLOCK_BYTES", block_bytes)
    raw = json.dumps(EVERYTHING).encode()
    beginnings = range(0, len(raw), 29 if block_bytes == 16 else 2)
    assert not any(is_json(slim(raw[:at])) for at in beginnings)
    assert is_json(slim(raw + b"\n"))


@pytest.mark.parametrize(
    "raw",
    [
        b"[" + b"1," * 900 + b"]",
        b"[" + b",1" * 900 + b"]",
        b"[" + b"1," * 900 + b"2}",
        b"[" + b"1," * 900,
        b"1," * 900 + b"1",
        b'{"usage":{"a":1},' + b"1," * 900 + b"}",
        b'{"usage":' + b"1," * 900 + b"5}",
        b'["' + b"x" * 900 + b'"',
        b'["' + b"x" * 900 + b"\\",
        b'["' + b"x" * 900 + b'\\"]',
        b'["' + b"x" * 900 + b'""]',
        b'{"' + b"x" * 900 + b'"}',
        b'[\\"' + b"x" * 900 + b'"]',
        b"[1] " + b"2," * 900 + b"2",
        b"{}" + b" " * 900 + b"{}",
        b"{}\\",
        b"{}\xe6\x97",
        b"[" * 900 + b"]" * 899,
        b"[" * 899 + b"]" * 900,
        b"",
        b" " * 900,
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_a_fault_beside_what_is_left_out_is_seen(raw: bytes) -> None:
    assert not is_json(raw)
    assert not is_json(slim(raw))


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.sampled_from([b'"', b"\\", b'\\"', b"[", b"]", b"{", b"}", b",", b"1,", b"\xe6", b"\\u1", b'":']),
            st.builds(
                lambda unit, times: unit * times, st.sampled_from([b"1,", b"x", b" ", b"[", b"\\", b'"']), st.just(700)
            ),
        ),
        max_size=30,
    ),
    st.sampled_from([8, 100, 64 * 1024]),
)
@settings(max_examples=150, deadline=None)
def test_garbage_is_taken_however_it_comes(pieces: list[bytes], block_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slimjson, "BLOCK_BYTES", block_bytes)
        left, slimmer = slimmed(*pieces)
        assert slimmed(b"".join(pieces))[0] == left
    assert len(left) <= len(b"".join(pieces)) + 80
    assert 0 <= slimmer.dropped_bytes <= len(b"".join(pieces))


def is_json(raw: bytes) -> bool:
    try:
        json.loads(raw)
    except ValueError:  # a UnicodeDecodeError is one
        return False
    except RecursionError:
        return False
    return True


# Small, and fast.


def floats(dimensions: int, seed: int = 1) -> bytes:
    draw = random.Random(seed)
    return b"[" + b",".join(b"%.8f" % draw.uniform(-1, 1) for _ in range(dimensions)) + b"]"


def embeddings(count: int, dimensions: int) -> Iterator[bytes]:
    row = floats(dimensions)
    yield b'{"object":"list","data":['
    for at in range(count):
        yield b'%b{"object":"embedding","index":%d,"embedding":%b}' % (b"," if at else b"", at, row)
    yield b'],"usage":{"prompt_tokens":9,"total_tokens":9}}'


def images(count: int, size_bytes: int) -> Iterator[bytes]:
    piece = b"iVBOR/w0KGgo+AAA" * 4096
    yield b'{"created":1,"data":['
    for at in range(count):
        yield b'%b{"b64_json":"' % (b"," if at else b"")
        for _ in range(size_bytes // len(piece)):
            yield piece
        yield b'","revised_prompt":null}'
    yield b'],"size":"1024x1024"}'


def fed(pieces: Iterator[bytes]) -> tuple[bytes, int]:
    """The slim text, and how many bytes it was made of."""
    slimmer, size = Slimmer(), 0
    for piece in pieces:
        slimmer.feed(piece)
        size += len(piece)
    return slimmer.finish(), size


def test_many_embeddings_leave_little_and_their_number() -> None:
    left, size = fed(embeddings(2048, 3072))
    assert size > 70_000_000
    assert len(left) < 300_000
    answer = orjson.loads(left)
    assert [one["index"] for one in answer["data"]] == list(range(2048))
    assert answer["usage"] == {"prompt_tokens": 9, "total_tokens": 9}


def test_images_leave_next_to_nothing_and_their_number() -> None:
    left, size = fed(images(10, 10 << 20))
    assert size > 100_000_000
    assert len(left) < 2000
    assert len(orjson.loads(left)["data"]) == 10


@pytest.mark.parametrize("answer", ["images", "embeddings", "logprobs", "deep", "words"])
def test_memory_is_bounded(answer: str) -> None:
    said = {
        "images": lambda: images(10, 10 << 20),
        "embeddings": lambda: embeddings(1000, 3072),
        "logprobs": lambda: islice(iter(lambda: b'{"choices":[{"a":{"b":[{"c":[{"token":"x"},{}]},', b""), 9000),
        "deep": lambda: iter([b"[" * 200_000]),
        "words": lambda: islice(iter(lambda: b'{"word":"a","start":1.5},' * 2000, b""), 165),
    }[answer]
    tracemalloc.start()
    try:
        slimmer = Slimmer()
        for piece in said():
            slimmer.feed(piece)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
    assert not slimmer.overflowed


def test_a_huge_piece_is_not_copied_whole() -> None:
    whole = b'["' + b"A" * (64 << 20)
    tracemalloc.start()
    try:
        Slimmer().feed(whole)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_more_than_is_kept_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slimjson, "MAX_SLIM_BYTES", 3 * BLOCK_BYTES)
    raw = b'{"a":"' + b"x" * 10_000 + b'","words":[' + b'"and",' * (4 * BLOCK_BYTES // 6)
    left, slimmer = slimmed(raw + b'"' + b"y" * 5080 + b'"]}')
    assert (left, slimmer.overflowed, slimmer.dropped_bytes) == (b"", True, 9_920 + 5000)
    left, slimmer = slimmed(raw[: 2 * BLOCK_BYTES])
    assert (left[:6], slimmer.overflowed) == (b'{"a":"', False)


def seconds(raw: bytes, piece_bytes: int = 256 * 1024) -> float:
    slimmer = Slimmer()
    began = time.perf_counter()
    for at in range(0, len(raw), piece_bytes):
        slimmer.feed(raw[at : at + piece_bytes])
    slimmer.finish()
    return time.perf_counter() - began


@pytest.mark.parametrize(
    ("raw", "least_mb_per_s"),
    [
        (b'["' + b"iVBOR/+w" * 4_000_000, 200),
        (b'["' + b"iVBOR\\/w" * 1_000_000, 50),
        (b"[" + floats(3072)[:-1] * 300, 100),
        (b"[" + b"[0.125,\n      -1.5],\n" * 300_000, 10),
        (b'["' + b'\\"' * 3_000_000, 50),
        (b'["' + b"\\" * 6_000_000, 50),
        (b'["' + b'x","' * 1_000_000, 10),
        (b"[" + (b'"' + b"x" * MAX_RUN_BYTES + b'",') * 10_000, 50),
        (b"[" + (b"[" + b"1," * (MAX_RUN_BYTES // 2) + b"],") * 10_000, 10),
        (b"[" + b" " * 6_000_000, 50),
        (b"[ x" * 700_000, 1),
        (b"[" * 1_000_000, 1),
        (b"[" * MAX_LEVELS + b"[]," * 400_000, 1),
    ],
    ids=lambda value: repr(value[:12]) if isinstance(value, bytes) else str(value),
)
def test_no_text_takes_long(raw: bytes, least_mb_per_s: int) -> None:
    assert min(seconds(raw) for _ in range(2)) < len(raw) / least_mb_per_s / 1e6


def test_a_byte_at_a_time_takes_linear_time() -> None:
    raw = (b'["' + b"x" * 300_000 + b'"],' + floats(3072) * 10)[:600_000]
    assert seconds(raw, 1) < 5
