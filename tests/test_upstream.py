"""The one upstream as HTTP: connections, framing, and what its errors mean."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from oxyy_proxy import pool
from oxyy_proxy import upstream as module
from oxyy_proxy.errors import StartupError
from oxyy_proxy.upstream import Upstream
from tests.rig import KEY, ORG_KEY, Rig
from tests.steps.wires import QUESTION, SSE_HEAD, RawAnswer, ask, ask_chat, event, http, raw_upstream, request, says

ALONE = """
version: 1
models:
  gpt-5: {endpoints: [chat], price: {input: 1.25, output: 10.00}}
"""
GOOD = b'{"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}'


async def _against(make_rig: Callable[..., Any], url: str, **options: Any) -> Rig:
    return await make_rig(models=ALONE, upstream_url=url, **options)  # type: ignore[no-any-return]


async def test_a_connection_is_used_again(make_rig: Callable[..., Any]) -> None:
    async with raw_upstream(says(http(GOOD)), keep=True) as upstream:
        rig = await _against(make_rig, upstream.url)
        for _ in range(5):
            assert (await ask_chat(rig)).status == 200
        assert (len(upstream.seen), upstream.connections) == (5, 1)


async def test_concurrent_requests_have_a_connection_each(make_rig: Callable[..., Any]) -> None:
    gate = asyncio.Barrier(12)

    async def together(writer: asyncio.StreamWriter) -> None:
        await gate.wait()  # no answer before all twelve have arrived
        await says(http(GOOD))(writer)

    async with raw_upstream(together, keep=True) as upstream:
        rig = await _against(make_rig, upstream.url)
        answers = await asyncio.gather(*(ask_chat(rig) for _ in range(12)))
        assert [answer.status for answer in answers] == [200] * 12


async def test_a_connection_that_the_upstream_closed_meanwhile_is_not_used(make_rig: Callable[..., Any]) -> None:
    async def once(writer: asyncio.StreamWriter) -> None:
        await says(http(GOOD))(writer)
        writer.close()

    async with raw_upstream(once) as upstream:
        rig = await _against(make_rig, upstream.url)
        for _ in range(5):
            assert (await ask_chat(rig)).status == 200
            await asyncio.sleep(0.02)  # the end of the connection arrives
        assert len(upstream.seen) == 5
        assert {row["state"] for row in rig.rows()} == {"settled"}


NOT_REUSED: dict[str, RawAnswer] = {
    "Connection: close": says(http(GOOD, "200 OK", "application/json", "Connection: close")),
    "more than was announced": says(http(GOOD) + b"garbage"),
    "the beginning of another answer": says(http(GOOD) + b"HTTP/1.1 200 OK\r\n"),
    "another answer": says(http(GOOD) + http(b'{"choices": [1]}', "418 Teapot", "text/plain")),
    "HTTP/1.0": says(http(GOOD).replace(b"HTTP/1.1", b"HTTP/1.0")),
}


@pytest.mark.parametrize("answer", NOT_REUSED.values(), ids=NOT_REUSED)
async def test_a_connection_that_cannot_be_trusted_is_not_used_again(
    make_rig: Callable[..., Any], answer: RawAnswer
) -> None:
    async with raw_upstream(answer, keep=True) as upstream:
        rig = await _against(make_rig, upstream.url)
        for _ in range(3):
            heard = await ask_chat(rig)
            assert (heard.status, heard.body) == (200, GOOD)
        assert upstream.connections == 3


async def test_a_stream_that_was_not_read_to_its_end_does_not_poison_the_next_request(
    make_rig: Callable[..., Any],
) -> None:
    endless = SSE_HEAD.replace(b"Connection: close\r\n", b"Content-Length: 100000\r\n") + event("a")
    timeout = "version: 1\nretry: {idle: 100ms}\n"
    async with raw_upstream(says(endless), says(http(GOOD)), keep=True) as upstream:
        rig = await _against(make_rig, upstream.url, gateway=timeout)
        assert b"upstream_timeout" in (await ask_chat(rig, stream=True)).body
        assert (await ask_chat(rig)).body == GOOD
        assert upstream.connections == 2


FRAMED: dict[str, bytes] = {
    "chunked": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"%x;ext=1\r\n%c\r\n" % (1, byte) for byte in GOOD)
    + b"0\r\nX-Trailer: 1\r\n\r\n",
    "until it closes": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + GOOD,
    "after 103 Early Hints": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + http(GOOD),
    "after 100 Continue": b"HTTP/1.1 100 Continue\r\n\r\n" + http(GOOD),
    "headers in any case": http(GOOD).replace(b"Content-Type", b"content-TYPE").replace(b"Content-L", b"CONTENT-l"),
}


@pytest.mark.parametrize("raw", FRAMED.values(), ids=FRAMED)
@pytest.mark.parametrize("in_bytes", [False, True], ids=["at once", "byte by byte"])
async def test_an_answer_is_read_however_it_is_framed(make_rig: Callable[..., Any], raw: bytes, in_bytes: bool) -> None:
    async def slowly(writer: asyncio.StreamWriter) -> None:
        for byte in raw:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)

    async with raw_upstream(slowly if in_bytes else says(raw)) as upstream:
        rig = await _against(make_rig, upstream.url)
        answer = await ask_chat(rig)
        assert (answer.status, answer.body) == (200, GOOD)
        assert answer.headers["content-type"] == "application/json"


async def test_an_answer_that_comes_before_the_request_is_read_is_heard(make_rig: Callable[..., Any]) -> None:
    refusal = http(b'{"error": {"message": "too large"}}', "413 Too Large")
    async with raw_upstream(says(refusal), early=True) as upstream:
        rig = await _against(make_rig, upstream.url)
        answer = await ask_chat(rig, user="x" * 1000)
        assert answer.status == 413
        assert rig.rows()[0]["state"] == "voided"


async def test_what_is_sent_is_one_plain_request(make_rig: Callable[..., Any]) -> None:
    async with raw_upstream(says(http(GOOD))) as upstream:
        rig = await _against(make_rig, upstream.url.replace("/v1", "/base/path/"))
        await ask(rig, QUESTION, headers={"User-Agent": "me/1", "Cookie": "a=b", "Accept": "*/*"})
        ((head, body),) = upstream.seen
        first, *lines = head.decode().split("\r\n")[:-2]
        assert first == "POST /base/path/chat/completions HTTP/1.1"
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        assert len(fields) == len(lines)
        assert fields == {
            "host": upstream.url.split("/")[2],
            "authorization": f"Bearer {ORG_KEY}",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "x-request-id": rig.rows()[0]["request_id"],
            "user-agent": "me/1",
            "accept": "*/*",
            "content-length": str(len(body)),
        }
        assert KEY not in head.decode()


async def test_redirects_are_not_followed_with_the_key(make_rig: Callable[..., Any]) -> None:
    async with raw_upstream(says(http(GOOD))) as elsewhere:
        to = f"Location: {elsewhere.url}/chat/completions"
        async with raw_upstream(says(http(b"", "307 There", "text/plain", to))) as upstream:
            rig = await _against(make_rig, upstream.url)
            assert (await ask_chat(rig)).error["code"] == "upstream_bad_response"
        assert not elsewhere.seen


async def test_proxies_of_the_environment_are_not_used(
    make_rig: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    async with raw_upstream(says(http(GOOD))) as upstream:
        assert (await ask_chat(await _against(make_rig, upstream.url))).status == 200


async def test_a_compressed_answer_is_not_unpacked(make_rig: Callable[..., Any]) -> None:
    packed = http(b"\x1f\x8b\x08" * 10, "200 OK", "application/json", "Content-Encoding: gzip")
    async with raw_upstream(says(packed)) as upstream:
        answer = await ask_chat(await _against(make_rig, upstream.url))
        assert (answer.status, answer.error["code"]) == (502, "upstream_bad_response")


UNREACHABLE = {
    "nobody listens": "http://127.0.0.1:1/v1",
    "no such name": "http://no-such-host.invalid/v1",
    "TLS with somebody who speaks none": "https://{plain}/v1",
}


@pytest.mark.parametrize("url", UNREACHABLE.values(), ids=UNREACHABLE)
async def test_who_cannot_be_reached_was_not_sent_anything(
    make_rig: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(pool, "CONNECT_S", 0.5)
    async with raw_upstream(says(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as plain:
        rig = await _against(make_rig, url.format(plain=plain.url.split("/")[2]))
        answer = await ask_chat(rig)
        assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")
        (row,) = rig.rows()
        assert (row["state"], row["cost_nusd"], row["unresolved_nusd"]) == ("voided", 0, 0)


async def test_a_head_without_end_is_not_kept(make_rig: Callable[..., Any]) -> None:
    sent = [0]

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while sent[0] < 64 * 2**20:
            writer.write(b"x-filler: " + b"x" * 4000 + b"\r\n")
            await writer.drain()
            sent[0] += 4012

    async with raw_upstream(endless) as upstream:
        answer = await ask_chat(await _against(make_rig, upstream.url))
        assert (answer.status, answer.error["code"]) == (502, "upstream_bad_response")
        assert sent[0] < 32 * 2**20


async def test_an_answer_larger_than_the_limit_is_refused(
    make_rig: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 1000)
    async with raw_upstream(says(http(b'{"a": "' + b"x" * 1000 + b'"}')), says(http(GOOD))) as upstream:
        rig = await make_rig(upstream_url=upstream.url)
        # What names a job is read whole, however large it is.
        video = await ask(rig, {"model": "veo-3", "prompt": "A lake"}, path="/v1/videos/generations")
        assert video.error["code"] == "upstream_bad_response"
        assert rig.rows()[0]["state"] == "unresolved"
        assert (await ask_chat(rig)).status == 200


async def test_a_large_request_and_a_large_answer_pass(make_rig: Callable[..., Any]) -> None:
    large = b'{"choices": [], "pad": "' + b"x" * 5_000_000 + b'", ' + GOOD[1:]
    async with raw_upstream(says(http(large)), keep=True) as upstream:
        rig = await _against(make_rig, upstream.url)
        body = {**QUESTION, "user": "y" * 5_000_000}
        answer = await ask(rig, body, path="/v1/chat/completions")
        assert (answer.status, answer.body) == (200, large)
        assert upstream.seen[0][1] == request(body).partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("url", ["", "api.oxyy.ai", "ftp://api.oxyy.ai/v1", "http://", "http://host:99999/v1"])
async def test_a_url_that_is_none_is_one_line(url: str) -> None:
    with pytest.raises(StartupError, match="the upstream ") as caught:
        Upstream(url, ORG_KEY, None)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


async def test_it_is_found_over_ipv6_too(make_rig: Callable[..., Any]) -> None:
    try:
        probe = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    probe.close()
    async with raw_upstream(says(http(GOOD)), host="::1") as upstream:
        assert (await ask_chat(await _against(make_rig, upstream.url))).status == 200
