import asyncio
import time

from .conftest import dial, hear, question


async def test_events_are_paced(ask):
    began = time.monotonic()
    heard = await ask(stream=True, simulate={"words": 10, "pace_ms": 20})
    # the role, ten words and the finish: eleven pauses
    assert 0.22 <= time.monotonic() - began < 1
    assert len(heard.events) == 13


async def test_a_delay_comes_before_the_headers(sim):
    sock = await dial(sim, question(simulate={"delay_ms": 100}))
    began = time.monotonic()
    with sock:
        first = await asyncio.get_running_loop().sock_recv(sock, 12)
    assert time.monotonic() - began >= 0.09
    assert first == b"HTTP/1.1 200"


async def test_the_charge_is_noted_before_the_first_byte(sim):
    sock = await dial(sim, question(simulate={"delay_ms": 60_000}))
    await sim.wait_for(lambda: len(sim.bill) == 1)
    assert sim.in_flight == 1
    sock.close()
    await sim.wait_for(lambda: sim.in_flight == 0)


async def test_a_client_that_leaves_mid_stream_pays_in_full(sim):
    sock = await dial(sim, question(stream=True, simulate={"words": 500, "pace_ms": 50}))
    await asyncio.get_running_loop().sock_recv(sock, 65536)
    sock.close()
    await sim.wait_for(lambda: sim.in_flight == 0)
    assert sim.bill[0].output_tokens == 500


async def test_http_1_0_gets_a_stream_that_the_connection_ends(sim):
    sock = await dial(sim, question(stream=True))
    modern = await hear(sock)
    port = int(sim.origin.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    raw = b'{"model":"gpt-5","messages":[{"role":"user","content":"Hello!"}],"stream":true}'
    head = f"POST /v1/chat/completions HTTP/1.0\r\nAuthorization: Bearer sk-org\r\nContent-Length: {len(raw)}\r\n\r\n"
    writer.write(head.encode() + raw)
    old = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert old.partition(b"\r\n\r\n")[2] == modern.body
