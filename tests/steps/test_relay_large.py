"""Whole answers above a megabyte: not kept to be checked, but passed on as they come and read for what they cost."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

from tests.steps.wires import ask, ask_chat, assert_books_are_right, ended_rows, http, own_rig, raw_upstream, says


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _large_chat(size: int) -> bytes:
    text = "word " * (size // 5)
    usage = {"prompt_tokens": 10, "completion_tokens": 20}
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}).encode()


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_an_answer_above_a_megabyte_is_streamed_and_charged_by_what_it_says(tmp_path: Path, framing: str) -> None:
    body = _large_chat(3 * 2**20)
    said = http(body)
    if framing == "chunks":
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        said = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    async with raw_upstream(says(said)) as upstream, own_rig(tmp_path, upstream_url=upstream.url) as rig:
        answer = await ask_chat(rig)
        assert (answer.status, answer.whole, sha(answer.body)) == (200, True, sha(body))
        assert answer.headers.get("content-length") == (str(len(body)) if framing == "length" else None)
        (row,) = rig.rows()
        assert (row["state"], row["input_tokens"], row["output_tokens"]) == ("settled", 10, 20)
        assert row["usage_source"] == "upstream"
        await assert_books_are_right(rig)


async def test_an_answer_above_a_megabyte_that_is_cut_is_broken_off_and_stays_unresolved(tmp_path: Path) -> None:
    said = http(_large_chat(3 * 2**20))[: 2 * 2**20]
    async with raw_upstream(says(said)) as upstream, own_rig(tmp_path, upstream_url=upstream.url) as rig:
        answer = await ask_chat(rig)
        assert (answer.status, answer.whole) == (200, False)
        assert len(upstream.seen) == 1  # the fallback is not asked: it was committed
        (row,) = await ended_rows(rig)
        assert (row["state"], row["cost_nusd"]) == ("unresolved", 0)


async def test_large_pictures_are_counted_as_they_pass(tmp_path: Path) -> None:
    pictures = [{"b64_json": base64.b64encode(bytes([n]) * 700_000).decode()} for n in range(4)]
    body = json.dumps({"created": 1, "data": pictures}).encode()
    async with raw_upstream(says(http(body))) as upstream, own_rig(tmp_path, upstream_url=upstream.url) as rig:
        answer = await ask(rig, {"model": "dall-e-3", "prompt": "A lake", "n": 5}, path="/v1/images/generations")
        assert sha(answer.body) == sha(body)
        (row,) = rig.rows()
        assert (row["images"], row["cost_nusd"]) == (4, 160_000_000)


async def test_an_answer_up_to_a_megabyte_can_still_fail_over(tmp_path: Path) -> None:
    broken = http(b'{"choices": [' + b" " * 900_000)
    good = http(b'{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}')
    async with raw_upstream(says(broken), says(good)) as upstream, own_rig(tmp_path, upstream_url=upstream.url) as rig:
        answer = await ask_chat(rig)
        assert (answer.status, answer.headers["x-oxyy-model"]) == (200, "gpt-5-mini")
        assert len(upstream.seen) == 2


@pytest.mark.parametrize(
    ("body", "state"),
    [
        (b'{"error": {"message": "no"}, "padding": "' + b"x" * 2**21 + b'"}', "voided"),
        (b'{"choices": [' + b"1," * 2**20 + b"}", "unresolved"),
    ],
    ids=["an error", "no JSON"],
)
async def test_a_large_answer_that_turns_out_to_be_none_does_not_look_complete(
    tmp_path: Path, body: bytes, state: str
) -> None:
    async with raw_upstream(says(http(body))) as upstream, own_rig(tmp_path, upstream_url=upstream.url) as rig:
        answer = await ask_chat(rig)
        assert (answer.status, answer.whole) == (200, False)
        (row,) = await ended_rows(rig)
        assert (row["state"], row["cost_nusd"]) == (state, 0)
        await assert_books_are_right(rig)
