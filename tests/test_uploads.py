"""Request bodies on their way: bounded in memory and on disk, and read as they were written."""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import os
import tempfile
import tracemalloc
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyy_proxy import uploads
from oxyy_proxy.errors import Overloaded
from oxyy_proxy.rules.multipart import Span
from oxyy_proxy.uploads import SPOOL_AT_BYTES, WRITE_BYTES, Buffers, Upload
from tests.upload_parts import descriptors, held, read, uploaded

BODY = hashlib.shake_256(b"body").digest(3_000_000)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


# Room.


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_room_is_taken_up_to_the_cap_and_given_back(kind: str) -> None:
    buffers = Buffers(memory_bytes=10, disk_bytes=10)
    buffers.take(**{kind: 4})
    buffers.take(**{kind: 6})
    with pytest.raises(Overloaded) as caught:
        buffers.take(**{kind: 1})
    assert caught.value.headers == {"Retry-After": "1"}
    assert (caught.value.status, caught.value.code) == (503, "overloaded")
    assert sum(held(buffers)) == 10
    buffers.give_back(**{kind: 1})
    buffers.take(**{kind: 1})
    buffers.give_back(**{kind: 10})
    assert held(buffers) == (0, 0)


def test_what_does_not_fit_as_a_whole_takes_nothing() -> None:
    buffers = Buffers(memory_bytes=10, disk_bytes=10)
    for wanted in ({"memory": 5, "disk": 11}, {"memory": 11, "disk": 5}):
        with pytest.raises(Overloaded):
            buffers.take(**wanted)
    assert held(buffers) == (0, 0)


async def test_a_body_up_to_one_mb_stays_in_memory_and_the_next_byte_moves_it_to_a_file_without_a_name(
    folder: Path,
) -> None:
    buffers = Buffers()
    open_before = descriptors()
    upload = await uploaded(buffers, BODY[:1000], BODY[1000:SPOOL_AT_BYTES])
    assert SPOOL_AT_BYTES == 2**20
    assert (held(buffers), descriptors()) == ((2**20, 0), open_before)
    await upload.write(b"x")
    assert (held(buffers), descriptors()) == ((0, 2**20 + 1), open_before + 1)
    assert os.listdir(folder) == []
    await upload.write(b"y" * 100)
    assert held(buffers) == (100, 2**20 + 1)
    await upload.finish()
    assert held(buffers) == (0, 2**20 + 101)
    assert upload.size_bytes == 2**20 + 101
    assert await read(upload, Span(0, upload.size_bytes)) == BODY[: 2**20] + b"x" + b"y" * 100
    upload.close()
    assert (held(buffers), descriptors()) == ((0, 0), open_before)


async def test_a_body_in_tiny_pieces_takes_no_more_memory_than_is_counted() -> None:
    upload = Upload(Buffers())
    tracemalloc.start()
    try:
        for at in range(0, 600_000, 2):
            await upload.write(BODY[at : at + 2])
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
    assert await upload.whole() == BODY[:600_000]
    upload.close()


@pytest.mark.parametrize("size", [0, 1000, len(BODY)])
async def test_an_upload_may_be_closed_twice_and_is_given_back_once(size: int) -> None:
    buffers = Buffers()
    other = await uploaded(buffers, b"other")
    upload = await uploaded(buffers, BODY[:size])
    upload.close()
    upload.close()
    assert held(buffers) == (5, 0)
    other.close()
    assert held(buffers) == (0, 0)


@pytest.mark.parametrize(
    "buffers", [Buffers(memory_bytes=2_500_000), Buffers(disk_bytes=2_500_000)], ids=["memory", "disk"]
)
async def test_who_is_refused_for_want_of_room_leaves_none_taken_and_others_untouched(buffers: Buffers) -> None:
    first = await uploaded(buffers, BODY[:1_500_000])
    second = Upload(buffers)
    before = held(buffers)
    await second.write(BODY[:900_000])
    with pytest.raises(Overloaded) as caught:
        await second.write(BODY[:1_600_001])
    assert caught.value.headers == {"Retry-After": "1"}
    second.close()
    assert held(buffers) == before
    assert await read(first, Span(0, 1_500_000)) == BODY[:1_500_000]
    first.close()
    assert held(buffers) == (0, 0)


async def test_a_body_that_is_wanted_whole_counts_until_it_is_closed() -> None:
    buffers = Buffers(memory_bytes=len(BODY) + 1000)
    upload = await uploaded(buffers, BODY)
    assert await upload.whole() == BODY
    assert held(buffers) == (len(BODY), len(BODY))
    other = await uploaded(buffers, BODY[:1000])
    with pytest.raises(Overloaded):
        await other.write(b"x")
    other.close()
    upload.close()
    assert held(buffers) == (0, 0)


async def test_a_body_for_which_there_is_no_room_whole_is_refused() -> None:
    buffers = Buffers(memory_bytes=SPOOL_AT_BYTES * 2)
    upload = await uploaded(buffers, *(BODY[at : at + 64_000] for at in range(0, len(BODY), 64_000)))
    with pytest.raises(Overloaded):
        await upload.whole()
    upload.close()
    assert held(buffers) == (0, 0)


# What is read is what was written.


@st.composite
def _cut(draw: st.DrawFn) -> tuple[list[bytes], list[bytes | Span], int]:
    """A body in pieces, stretches of it among other bytes, and how much of it stays in memory."""
    body = draw(st.binary(max_size=200))
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=8)))
    pieces = [body[start:end] for start, end in itertools.pairwise([0, *cuts, len(body)])]
    places = st.integers(0, len(body))
    spans = st.tuples(places, places).map(lambda ends: Span(min(ends), max(ends)))
    return pieces, draw(st.lists(spans | st.binary(max_size=5), max_size=6)), draw(st.sampled_from([0, 50, 1000]))


@given(_cut(), st.sampled_from([1, 7, 64, 1000]))
@settings(deadline=None, max_examples=200)
def test_any_mix_of_bytes_and_stretches_is_read_exactly_and_as_often_as_wanted(
    cut: tuple[list[bytes], list[bytes | Span], int], write_bytes: int
) -> None:
    pieces, wanted, spool_at = cut
    body = b"".join(pieces)
    expected = b"".join(one if isinstance(one, bytes) else body[one.start : one.end] for one in wanted)

    async def run() -> None:
        buffers = Buffers()
        upload = await uploaded(buffers, *pieces)
        assert upload.size_bytes == len(body)
        for _ in range(2):
            got = [piece async for piece in upload.pieces(wanted)]
            assert b"".join(got) == expected
            assert all(len(piece) <= max(write_bytes, 5) for piece in got)
        assert await upload.whole() == body
        upload.close()
        assert held(buffers) == (0, 0)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(uploads, "SPOOL_AT_BYTES", spool_at)
        patched.setattr(uploads, "WRITE_BYTES", write_bytes)
        asyncio.run(run())


async def test_a_large_body_is_read_in_pieces_of_bounded_size() -> None:
    upload = await uploaded(Buffers(), *(BODY[at : at + 65536] for at in range(0, len(BODY), 65536)))
    got = [piece async for piece in upload.pieces([b"head", Span(10, len(BODY) - 1), b"tail"])]
    assert b"".join(got) == b"head" + BODY[10:-1] + b"tail"
    assert max(map(len, got)) == WRITE_BYTES
    upload.close()


async def test_a_reader_who_gives_up_leaves_the_body_for_the_next() -> None:
    upload = await uploaded(Buffers(), BODY)
    pieces = upload.pieces([Span(0, len(BODY))])
    assert await anext(pieces) == BODY[:WRITE_BYTES]
    await pieces.aclose()
    assert await read(upload, Span(0, len(BODY))) == BODY
    upload.close()


async def test_two_readers_do_not_disturb_each_other() -> None:
    upload = await uploaded(Buffers(), BODY)
    one, other = Span(0, len(BODY)), Span(7, len(BODY))
    view = upload.view(Span(1_000_000, 3_000_000))
    first, second, third = await asyncio.gather(read(upload, one), read(upload, other), asyncio.to_thread(view.read))
    assert (first, second, third) == (BODY, BODY[7:], BODY[1_000_000:])
    upload.close()


async def test_many_uploads_at_once_are_each_what_was_sent(folder: Path) -> None:
    buffers = Buffers()
    open_before = descriptors()

    async def one(number: int) -> None:
        body = BODY[number : number + 1_000_000 + number * 20_000]  # some stay in memory, some do not
        upload = await uploaded(buffers, *(body[at : at + 64_000] for at in range(0, len(body), 64_000)))
        for _ in range(2):
            assert await read(upload, b"<", Span(0, len(body)), b">") == b"<" + body + b">"
        upload.close()

    await asyncio.gather(*(one(number) for number in range(60)))
    assert (held(buffers), descriptors(), os.listdir(folder)) == ((0, 0), open_before, [])


@pytest.mark.slow
async def test_a_gigabyte_of_uploads_at_once_takes_less_than_100_mb_of_memory() -> None:
    buffers, piece = Buffers(), bytes(65536)

    async def one() -> None:
        upload = Upload(buffers)
        for _ in range(25 * 2**20 // len(piece)):
            await upload.write(bytes(memoryview(piece)))  # a new one, as from a socket
        await upload.finish()
        async for _ in upload.pieces([Span(0, upload.size_bytes)]):
            pass
        done.append(upload)

    done: list[Upload] = []
    tracemalloc.start()
    try:
        await asyncio.gather(*(one() for _ in range(40)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held(buffers) == (0, 40 * 25 * 2**20)
    assert peak < 100 * 2**20
    for upload in done:
        upload.close()


# A stretch as a file.

_STEP = st.one_of(
    st.tuples(st.just("read"), st.integers(-1, 60)),
    st.tuples(st.just("readinto"), st.integers(0, 60)),
    st.tuples(st.just("seek"), st.integers(-70, 70), st.sampled_from([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END])),
    st.tuples(st.just("tell")),
)


def _done(file: IO[bytes], step: tuple[Any, ...]) -> object:
    name, *arguments = step
    if name == "readinto":
        buffer = bytearray(arguments[0])
        return file.readinto(buffer), buffer  # type: ignore[attr-defined]
    try:
        return getattr(file, name)(*arguments)
    except ValueError:
        return ValueError


@given(st.binary(max_size=50), st.integers(0, 20), st.integers(0, 20), st.lists(_STEP, max_size=12), st.booleans())
@settings(deadline=None, max_examples=200)
def test_a_view_does_what_a_file_of_these_bytes_alone_would_do(
    stretch: bytes, before: int, behind: int, steps: list[tuple[Any, ...]], in_memory: bool
) -> None:
    async def run() -> None:
        upload = await uploaded(Buffers(), b"a" * before + stretch + b"z" * behind)
        view, like = upload.view(Span(before, before + len(stretch))), io.BytesIO(stretch)
        for step in steps:
            assert (step, _done(view, step)) == (step, _done(like, step))
        assert (view.readable(), view.seekable(), view.writable()) == (True, True, False) or in_memory
        view.close()  # the view alone
        assert await upload.whole() == b"a" * before + stretch + b"z" * behind
        upload.close()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(uploads, "SPOOL_AT_BYTES", 1000 if in_memory else -1)
        asyncio.run(run())


def test_a_team_takes_three_quarters_at_most_and_leaves_the_rest_to_others() -> None:
    buffers = Buffers(memory_bytes=100, disk_bytes=100)
    greedy, other = buffers.share("greedy"), buffers.share("other")
    greedy.take(memory=75)
    with pytest.raises(Overloaded):
        buffers.share("greedy").take(memory=1)
    other.take(memory=25)
    with pytest.raises(Overloaded):
        other.take(memory=1)
    other.give_back(memory=25)
    greedy.give_back(memory=75)
    assert (buffers.memory_bytes, buffers.disk_bytes) == (0, 0)
    other.take(memory=75)  # what was refused took nothing of its share
