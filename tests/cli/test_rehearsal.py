"""A rehearsal as a whole, in this process: what its clients saw is what its policies say."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from oxyy_proxy.cli.rehearsal import (
    AFTER,
    BEFORE,
    OUTAGE,
    Answer,
    Plan,
    Seen,
    admitting,
    as_before,
    in_a_row,
    problem,
    rehearse,
    settled_s,
)
from oxyy_proxy.cli.rehearse import price_list, questions
from oxyy_proxy.errors import StartupError
from oxyy_proxy.policyfiles.folder import read_folder
from oxyy_proxy.policyfiles.loading import load_files
from oxyy_proxy.simulator import Simulator
from tests.e2e.serving import write_policies
from tests.rig import GATEWAY, PRICES, team_file

DOWN = {"fault": "status", "status": 503}


def make_plan(
    folder: Path,
    *models: str,
    fault: Mapping[str, object] = DOWN,
    stream: bool | None = None,
    team: str = "",
    gateway: str = GATEWAY,
    **options: Any,
) -> Plan:
    """A short rehearsal of an outage of these models, gpt-5 if none is named."""
    read = read_folder(write_policies(folder / "policies", gateway=gateway, teams={"search": team or team_file()}))
    policy = load_files(read).policy
    names = models or ("gpt-5",)
    spans = {"rate": 40, "before_s": 0.2, "outage_s": 0.5, "after_s": 0.2, "patience_s": 5.0}
    return Plan(
        folder=read,
        policy=policy,
        team=policy.teams["search"],
        questions=questions(policy, names, stream),
        faults=tuple({**fault, "model": name} for name in names),
        prices=price_list(policy.models),
        **{**spans, **options},
    )


async def play(plan: Plan, watch: Callable[..., None] = lambda *_: None) -> Seen:
    return await rehearse(plan, watch, asyncio.Event())


async def test_a_fallback_answers_and_the_books_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    plan = make_plan(tmp_path)
    written = {file: file.read_bytes() for file in (tmp_path / "policies").rglob("*.yaml")}
    phases: list[str] = []
    seen = await play(plan, lambda phase, *_: phases.append(phase))
    assert {BEFORE, OUTAGE, AFTER} <= set(phases)
    assert [len(seen.of(phase)) for phase in (BEFORE, OUTAGE, AFTER)] == [8, 20, 8]
    assert [answer.failure for answer in seen.answers] == [""] * 36
    assert {answer.model for answer in seen.of(BEFORE)} == {"gpt-5"}
    assert {answer.model for answer in seen.of(OUTAGE)} == {"gpt-5-mini"}
    assert seen.calls[OUTAGE, "gpt-5-mini"] == 20
    retries = sum(answer.attempts - 1 for answer in seen.of(OUTAGE))
    assert seen.calls[OUTAGE, "gpt-5"] == retries > 0
    # Each answer costs 6 tokens of input, or so, and 40 of output; a fifth of it with the smaller model.
    before, outage = seen.spend[BEFORE][0] / 8, seen.spend[OUTAGE][0] / 20
    assert before == 5 * outage > 40 * 10_000
    assert seen.spend[OUTAGE][1] == 0
    assert not seen.stopped
    assert {file: file.read_bytes() for file in (tmp_path / "policies").rglob("*.yaml")} == written
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_every_endpoint_can_be_asked(tmp_path: Path) -> None:
    names = ("text-embedding-3-small", "dall-e-3", "gpt-image-1", "whisper-1", "tts-1-hd", "gpt-5")
    seen = await play(make_plan(tmp_path, *names, before_s=0.2, outage_s=0.2, after_s=0.1))
    before = seen.of(BEFORE)
    assert {answer.asked for answer in before if as_before(answer)} == set(names)
    assert len(seen.of(OUTAGE)) == 8


async def test_latency_counts_from_when_a_request_was_due(tmp_path: Path) -> None:
    stalls = iter([0.3])

    def watch(phase: str, *_: object) -> None:
        if phase == BEFORE:
            time.sleep(next(stalls, 0))  # nobody can send or answer

    seen = await play(make_plan(tmp_path, before_s=0.5), watch)
    before = seen.of(BEFORE)
    assert len(before) == 20
    held_up = [answer.took_s for answer in before if answer.took_s > 0.1]
    assert len(held_up) >= 7
    assert max(answer.late_s for answer in before) > 0.2


async def test_a_client_gives_up_and_what_hangs_is_ended(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, fault={"fault": "hang_before_headers"}, outage_s=0.2, patience_s=0.3)
    started = time.monotonic()
    seen = await play(plan)
    assert time.monotonic() - started < 8
    assert {answer.failure for answer in seen.of(OUTAGE)} == {"no answer in 0.3 s"}
    assert {answer.failure for answer in seen.of(AFTER)} == {""}
    assert seen.spend[OUTAGE][1] > 0
    # Nobody got an id: they are counted by the time of the call.
    assert seen.calls[OUTAGE, "gpt-5"] == 8


async def test_a_call_counts_in_the_phase_of_its_request(tmp_path: Path) -> None:
    gateway = "version: 1\nretry: {answer: 400ms, first_byte: 400ms, budget_percent: 100}\n"
    fault = {"fault": "hang_before_headers"}
    seen = await play(make_plan(tmp_path, fault=fault, gateway=gateway, outage_s=0.3, after_s=0.5))
    outage = seen.of(OUTAGE)
    assert [answer.model for answer in outage] == ["gpt-5-mini"] * 12
    assert min(answer.took_s for answer in outage) > 0.3
    assert seen.calls[OUTAGE, "gpt-5-mini"] == 12


async def test_a_stream_that_breaks_is_no_success(tmp_path: Path) -> None:
    # Later than the commit point, so that no fallback can help.
    fault = {"fault": "reset_mid_body", "after_bytes": 3000}
    seen = await play(make_plan(tmp_path, fault=fault, stream=True))
    assert {answer.failure for answer in seen.of(OUTAGE)} - {""} == {"200, then upstream_reset"}


async def test_the_upstream_refuses_connections_until_the_outage_is_over(tmp_path: Path) -> None:
    fault = {"fault": "refuse", "for_s": 60}
    seen = await play(make_plan(tmp_path, fault=fault, after_s=0.3))
    assert not any(answer.status == 200 for answer in seen.of(OUTAGE))
    assert len(seen.of(AFTER)) == 12


async def test_limits_are_lifted_unless_they_are_kept(tmp_path: Path) -> None:
    team = team_file(limits="{meter: requests, per: hour, cap: 1}")
    seen = await play(make_plan(tmp_path, team=team, outage_s=0.1))
    assert {answer.failure for answer in seen.answers} == {""}
    with pytest.raises(StartupError, match="a request for gpt-5 ends with: 429 rate_limit_exceeded"):
        await play(make_plan(tmp_path, team=team, keep_limits=True))


async def test_a_running_simulator_is_left_as_it_was(tmp_path: Path) -> None:
    simulator = Simulator(PRICES)
    await simulator.start()
    own = [{"fault": "status", "status": 500, "model": "gpt-5"}, {"fault": "empty", "times": 3}]
    for fault in own:
        simulator.faults.add(fault)
    try:
        seen = await play(make_plan(tmp_path, simulator=simulator.origin))
        assert simulator.faults.as_json() == own
        assert {answer.model for answer in seen.of(BEFORE)} == {"gpt-5"}
        assert {answer.model for answer in seen.of(OUTAGE)} == {"gpt-5-mini"}
        assert len(simulator.bill) == sum(seen.calls.values()) + 2 * 4  # the warm-up, whole and streamed
    finally:
        await simulator.stop()


@pytest.mark.parametrize("origin", ["http://127.0.0.1:1", "127.0.0.1:1", "elsewhere", ""])
async def test_what_is_no_simulator_is_not_called(tmp_path: Path, origin: str) -> None:
    with pytest.raises(StartupError, match="no simulator answers at"):
        await play(make_plan(tmp_path, simulator=origin))


async def test_a_simulator_without_the_model_is_found_out_before_the_outage(tmp_path: Path) -> None:
    simulator = Simulator({"other": {"input": "1", "output": "1"}})
    await simulator.start()
    try:
        with pytest.raises(
            StartupError, match="with nothing broken a request for gpt-5 ends with: 404 model_not_found"
        ):
            await play(make_plan(tmp_path, simulator=simulator.origin))
    finally:
        await simulator.stop()


async def test_it_can_be_ended_early(tmp_path: Path) -> None:
    stop = asyncio.Event()

    def watch(phase: str, elapsed_s: float, *_: object) -> None:
        if phase == OUTAGE and elapsed_s > 0.2:
            stop.set()

    plan = make_plan(tmp_path, fault={"fault": "hang_before_headers"}, outage_s=60, patience_s=30.0)
    started = time.monotonic()
    seen = await rehearse(plan, watch, stop)
    assert time.monotonic() - started < 8
    assert seen.stopped
    failures = [answer.failure for answer in seen.of(OUTAGE)]
    assert failures[:-1] == ["no answer yet"] * (
        len(failures) - 1
    )  # the last may have come as the fault was taken away
    assert len(failures) >= 8
    assert AFTER not in seen.seconds


async def test_the_time_after_ends_once_all_is_well_again(tmp_path: Path) -> None:
    fault = {**DOWN, "times": 1}
    seen = await play(make_plan(tmp_path, fault=fault, outage_s=0.1, after_s=60.0))
    assert 2 <= seen.seconds[AFTER] < 10


def test_only_the_key_of_the_rehearsal_is_admitted(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    policy = admitting(plan.policy, plan.team, "ab" * 32, keep_limits=False)
    assert [*policy.keys] == ["ab" * 32]
    assert (policy.limits, policy.teams["search"].limits) == ((), ())
    assert policy.keys["ab" * 32].team.allow == plan.team.allow
    kept = admitting(plan.policy, plan.team, "ab" * 32, keep_limits=True)
    assert kept.keys["ab" * 32].team.limits == plan.team.limits != ()


EVENTS = "text/event-stream; charset=utf-8"


@pytest.mark.parametrize(
    ("status", "content_type", "body", "said"),
    [
        (200, "application/json", b"{}", ""),
        (200, EVENTS, b'data: {"id": 1}\n\ndata: [DONE]\n\n', ""),
        (200, EVENTS, b'data: {"id": 1}\n\n', "200, not ended"),
        (200, EVENTS, b"", "200, not ended"),
        (200, EVENTS, b'data: {"id": 1}\n\ndata: {"error": {"code": "x"}}\n\n', "200, then x"),
        (200, EVENTS, b'data: {"error": {}}\n\n', "200, then an error"),
        (503, "application/json", b'{"error": {"code": "x", "type": "y"}}', "503 x"),
        (503, "application/json", b'{"error": {"code": null, "type": "y"}}', "503 y"),
        (502, "text/html", b"<html>", "502"),
        (502, "application/json", b"[]", "502"),
        (302, "", b"", "302"),
    ],
)
def test_what_an_answer_is_called(status: int, content_type: str, body: bytes, said: str) -> None:
    assert problem(status, content_type, body) == said


def answers(outcomes: Sequence[str]) -> list[Answer]:
    """One every 100 ms; `-` has failed, others name the model that answered gpt-5's requests."""
    return [
        Answer(OUTAGE, "gpt-5", at / 10, 0.01, 0, 200, "503" if model == "-" else "", model)
        for at, model in enumerate(outcomes)
    ]


@pytest.mark.parametrize(
    ("outcomes", "when"),
    [
        ([], None),
        (["gpt-5"] * 2, None),
        (["gpt-5"] * 3, 0.0),
        (["-", "gpt-5", "gpt-5", "-", "gpt-5", "gpt-5", "gpt-5"], 0.4),
        (["mini", "gpt-5", "gpt-5", "gpt-5", "-"], 0.1),
        (["gpt-5", "gpt-5", "mini"], None),
    ],
)
def test_when_it_went_well_for_a_while(outcomes: Sequence[str], when: float | None) -> None:
    assert settled_s(answers(outcomes), as_before, 3) == when


def test_a_while_is_half_a_second_and_five_requests() -> None:
    assert [in_a_row(rate) for rate in (0.1, 10, 20, 101)] == [5, 5, 10, 51]
