from __future__ import annotations

import asyncio

from tests.rig import Rig, team_file
from tests.steps.wires import ask_chat, limits


async def _started(rig: Rig, **members: object) -> asyncio.Task[object]:
    """A request that waits for its upstream."""
    before = len(rig.simulator.received)
    task: asyncio.Task[object] = asyncio.create_task(ask_chat(rig, simulate={"delay_ms": 250}, **members))
    await rig.simulator.wait_for(lambda: len(rig.simulator.received) > before)
    return task


async def _reload(rig: Rig) -> None:
    rig.write_policies()
    await rig.proxy.policies.reload()


async def test_a_request_keeps_the_policy_that_it_began_with(rig: Rig) -> None:
    rig.simulator.faults.add({"fault": "hang_before_headers", "for_s": 0.25, "model": "gpt-5", "times": 1})
    running = await _started(rig)
    rig.models = rig.models.replace("input: 1.25", "input: 125").replace("output: 10.00", "output: 1000")
    await _reload(rig)
    await running
    (row,) = rig.rows()
    assert row["cost_nusd"] == rig.simulator.total_nusd  # at the price that was held for
    assert (await ask_chat(rig)).status == 200
    assert rig.rows()[1]["cost_nusd"] == 100 * rig.simulator.bill[1].cost_nusd


async def test_a_request_that_runs_counts_in_the_limits_after_a_reload(rig: Rig) -> None:
    rig.teams["search"] = team_file(limits="{meter: concurrent, cap: 5}, {meter: usd, per: month, cap: 1000}")
    await _reload(rig)
    running = await _started(rig)
    rig.teams["search"] = team_file(limits="{meter: concurrent, cap: 1}, {meter: usd, per: month, cap: 999}")
    await _reload(rig)
    concurrent, budget = await limits(rig)
    assert (concurrent["cap"], concurrent["held"], budget["cap"]) == (1, 1, "999.00")
    assert (await ask_chat(rig)).status == 429
    await running
    assert (await ask_chat(rig)).status == 200


async def test_requests_that_run_are_known_to_the_services(rig: Rig) -> None:
    assert not rig.proxy.services.running
    running = await _started(rig)
    assert len(rig.proxy.services.running) == 1
    await running
    await asyncio.gather(*rig.proxy.services.running)
    assert not rig.proxy.services.running
