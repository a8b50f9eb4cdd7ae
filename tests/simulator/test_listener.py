import asyncio
import gc
import socket

import pytest

from oxyy_proxy.simulator import Simulator

from .conftest import dial, hear, question


async def test_a_taken_port_is_an_oserror():
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="in use"):
        await Simulator().start(port=other.getsockname()[1])


async def test_a_refusing_simulator_drops_open_connections_and_comes_back_on_its_port(sim):
    before = sim.origin
    waiting = await dial(sim, question(simulate={"fault": "hang_mid_body"}))
    await sim.wait_for(lambda: sim.in_flight == 1)
    await sim.refuse()
    assert (await hear(waiting)).end == "reset"
    await sim.wait_for(lambda: sim.in_flight == 0)
    with pytest.raises(ConnectionRefusedError):
        await dial(sim, question())
    await sim.accept()
    assert sim.origin == before
    assert (await hear(await dial(sim, question()))).status == 200


async def test_accept_ends_an_outage_early_and_only_once(sim):
    await sim.refuse(for_s=60)
    await sim.accept()
    await sim.accept()
    assert (await hear(await dial(sim, question()))).status == 200


async def test_it_stops_at_once_with_hanging_requests():
    sim = Simulator()
    await sim.start()
    socks = [await dial(sim, question(simulate={"fault": "hang_before_headers"})) for _ in range(20)]
    await sim.wait_for(lambda: sim.in_flight == 20)
    async with asyncio.timeout(1):
        await sim.stop()
    await sim.wait_for(lambda: sim.in_flight == 0)
    for sock in socks:
        assert (await hear(sock)).end == "reset"


async def test_it_stops_during_an_outage_and_stays_shut():
    sim = Simulator()
    await sim.start()
    await sim.refuse(for_s=0)
    await sim.stop()
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
    with pytest.raises(ConnectionRefusedError):
        await dial(sim, question())


async def test_it_listens_on_ipv6_too():
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    sim = Simulator()
    try:
        await sim.start(host="::1")
    except OSError:
        pytest.skip("no IPv6")
    assert sim.url.startswith("http://[::1]:")
    await sim.stop()


@pytest.mark.parametrize("ticks", range(5))
async def test_an_outage_loses_no_connection_that_is_just_being_accepted(sim, ticks):
    """asyncio's server forgets them where it closes meanwhile: they stay open, and nobody answers."""
    dialled = []
    for _ in range(20):
        sock = socket.socket()
        sock.connect(("127.0.0.1", int(sim.origin.rpartition(":")[2])))
        sock.setblocking(False)
        dialled.append(sock)
    for _ in range(ticks):
        await asyncio.sleep(0)
    await sim.refuse()
    await sim.accept()
    await sim.stop()
    gc.collect()  # what was forgotten would be told of here
    for sock in dialled:
        sock.close()
