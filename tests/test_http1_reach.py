"""Whether the upstream can be reached, and is who it says it is. Nothing was sent to one that cannot."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from oxyy_proxy import pool
from oxyy_proxy.errors import UpstreamFailure, UpstreamReset, UpstreamUnreachable
from tests.http1_parts import client, full_port, is_closed, on_each_loop, read_request, serving, until
from tests.steps.wires import WAIT_S, http

BODY = b"over TLS" * 100_000


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for `localhost` alone, and its key, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "certificate.pem"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "certificate.pem").read_bytes())
    return both


def _server_side(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@on_each_loop
async def test_a_trusted_server_is_spoken_to(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    agreed: set[str | None] = set()
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        agreed.add(writer.get_extra_info("ssl_object").selected_alpn_protocol())
        while True:
            _, body = await read_request(reader)
            writer.write(http(body))

    async with (
        serving(serve, ssl=_server_side(certificate)) as url,
        client(url.replace("127.0.0.1", "localhost")) as asking,
    ):
        for _ in range(3):
            assert (await asking.ask(BODY)).body == BODY
    assert (agreed, connections) == ({"http/1.1"}, 1)


@pytest.mark.parametrize(
    ("trusted", "host"), [(False, "localhost"), (True, "127.0.0.1")], ids=["unknown", "wrong name"]
)
@on_each_loop
async def test_a_server_that_cannot_be_trusted_is_sent_nothing(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool, host: str
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    seen = b""

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += await reader.read(1)

    async with serving(serve, ssl=_server_side(certificate)) as url, client(url.replace("127.0.0.1", host)) as asking:
        with pytest.raises(UpstreamUnreachable):
            await asking.ask()
    assert seen == b""


@on_each_loop
async def test_a_body_over_tls_is_not_read_faster_than_it_is_taken(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    large = BODY * 40

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(http(large))
        await is_closed(reader)

    async with (
        serving(serve, ssl=_server_side(certificate)) as url,
        client(url.replace("127.0.0.1", "localhost")) as asking,
    ):
        answer = await asking.upstream.post("/chat/completions", b"", "", 60.0)
        await until(lambda: answer._size > 256 * 1024)
        for _ in range(500):
            await asyncio.sleep(0)
        assert answer._size <= 1024 * 1024
        assert await answer.read() == large
        answer.close()
        assert len(asking.idle) == 1


@on_each_loop
async def test_a_tls_server_that_hangs_up_after_its_greeting_is_a_failure_and_no_wait(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async def serve(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        pass

    async with (
        serving(serve, ssl=_server_side(certificate)) as url,
        client(url.replace("127.0.0.1", "localhost")) as asking,
    ):
        for _ in range(10):
            with pytest.raises(UpstreamFailure) as caught:
                await asyncio.wait_for(asking.ask(limit_s=60.0), WAIT_S)
            assert isinstance(caught.value, UpstreamReset | UpstreamUnreachable)


NOBODY = {
    "refused": "http://127.0.0.1:1/v1",
    "no such name": "http://no-such-host.invalid/v1",
    "a name that cannot be one": f"http://{'x' * 70}.example/v1",
    "a name with an empty part": "http://a..b/v1",
}


@pytest.mark.parametrize("url", NOBODY.values(), ids=NOBODY)
@on_each_loop
async def test_who_is_not_there_is_unreachable(url: str) -> None:
    async with client(url) as asking:
        with pytest.raises(UpstreamUnreachable):
            await asking.ask()


@pytest.mark.parametrize(("connect_s", "limit_s"), [(0.1, 60.0), (60.0, 0.1)], ids=["own bound", "the request's"])
@on_each_loop
async def test_who_does_not_answer_the_call_is_unreachable_soon(
    monkeypatch: pytest.MonkeyPatch, connect_s: float, limit_s: float
) -> None:
    monkeypatch.setattr(pool, "CONNECT_S", connect_s)
    clock = asyncio.get_running_loop().time  # uvloop's is coarser than the system's
    started = clock()
    with full_port() as port:
        async with client(f"http://127.0.0.1:{port}/v1") as asking:
            with pytest.raises(UpstreamUnreachable):
                await asking.ask(limit_s=limit_s)
    assert 0.1 <= clock() - started + 1e-9 < 5.0


@on_each_loop
async def test_who_listens_but_does_not_greet_is_unreachable_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "CONNECT_S", 0.1)
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readexactly(100)  # of the client's part of the handshake
        with contextlib.suppress(OSError):
            await reader.read()
        closed.set()

    async with serving(serve) as url, client(url.replace("http:", "https:")) as asking:
        with pytest.raises(UpstreamUnreachable):
            await asking.ask()
        await asyncio.wait_for(closed.wait(), WAIT_S)


@on_each_loop
async def test_a_call_that_is_cancelled_leaves_nothing() -> None:
    with full_port() as port:
        async with client(f"http://127.0.0.1:{port}/v1") as asking:
            task = asyncio.get_running_loop().create_task(asking.ask())
            for _ in range(5):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (asking.idle, asking.waits) == ([], 0)
