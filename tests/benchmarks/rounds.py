"""CPU, requests per second and latency: rounds of phases."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import uvloop

from oxyy_proxy.rules.requestid import first_id_at
from tests.benchmarks import books
from tests.benchmarks.load import Load, WrongAnswer
from tests.benchmarks.targets import Stage, Target
from tests.benchmarks.workloads import COST_NUSD, Workload

Step = Callable[[str], None]
"""Told before each phase what comes."""

_AFTERMATH_S = 0.12
"""CPU is counted until this long after the last answer: a log line may be flushed 100 ms late."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One workload against one target at one number of connections, once."""

    requests: int
    requests_per_s: float
    cpu_us: float
    first_byte_s: list[float]
    total_s: list[float]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure."""

    rounds: int
    phase_scale: float
    warm_up_s: float
    streams: tuple[int, ...]
    memory_wait_s: float
    starts: int
    ledger_rows: tuple[int, ...]

    @property
    def numbers(self) -> range:
        """The rounds; 0 is the warm-up."""
        return range(0 if self.warm_up_s else 1, self.rounds + 1)


FULL = Plan(
    rounds=15,
    phase_scale=1.0,
    warm_up_s=0.3,
    streams=(1, 10, 100, 1000, 5000),
    memory_wait_s=2.5,
    starts=5,
    ledger_rows=(0, 10**6, 10**7),
)
QUICK = Plan(
    rounds=1, phase_scale=0.2, warm_up_s=0.0, streams=(1000,), memory_wait_s=0.4, starts=1, ledger_rows=(0, 10**5)
)


@dataclass(slots=True)
class Rounds:
    """`phases[workload, connections, target]` has one entry per round. `settled`: what the proxy's ledger held."""

    phases: dict[tuple[str, int, str], list[Phase]] = field(default_factory=dict)
    settled: books.Books | None = None

    def add(self, others: Rounds) -> None:
        """Takes over what was measured at another time."""
        self.phases |= others.phases
        self.settled = others.settled if self.settled is None else self.settled.plus(others.settled)


async def _phase(workload: Workload, target: Target, key: str, connections: int, seconds: float) -> Phase:
    load = Load(workload, target.port, key, connections)
    try:
        await load.connect()
        await asyncio.sleep(0.02)
        before = target.cpu_ns()
        await load.run(seconds)
        await asyncio.sleep(_AFTERMATH_S)
        used_ns = target.cpu_ns() - before
    finally:
        load.close()
    samples = load.samples
    count = len(samples.total_s)
    return Phase(count, count / samples.elapsed_s, used_ns / count / 1000, samples.first_byte_s, samples.total_s)


def run_phase(workload: Workload, target: Target, key: str, connections: int, seconds: float) -> Phase:
    """Raises `WrongAnswer`, with the target's name, if a single answer is not the expected one."""
    try:
        return uvloop.run(_phase(workload, target, key, connections, seconds))
    except (WrongAnswer, OSError) as wrong:
        log = f"\n{target.process.tail()}" if target.process else ""
        raise WrongAnswer(f"{target.name}, {workload.title}, {connections} connections: {wrong}{log}") from None


def measure_rounds(
    stage: Stage, workloads: Sequence[Workload], names: Sequence[str], plan: Plan, key: str, step: Step
) -> Rounds:
    """All workloads against all targets."""
    with ExitStack() as running:
        targets: list[Target] = []
        for name in names:
            targets.append(target := stage.start(name))
            running.callback(target.stop)
        return play(targets, [(each, *phase) for each in workloads for phase in each.seconds], plan, key, step)


def play(
    targets: Sequence[Target], phases: Sequence[tuple[Workload, int, float]], plan: Plan, key: str, step: Step
) -> Rounds:
    """All phases (workload, connections, seconds) against all targets, interleaved; every second round in reverse
    order. The books of each target that keeps some are checked."""
    results, sent = Rounds(), Counter[str]()
    since = first_id_at(int(time.time()))
    for workload, connections, seconds in phases:
        for number in plan.numbers:
            warm_up = number == 0
            step(f"{workload.title} ×{connections}: {f'round {number}' if number else 'warm-up'}")
            for target in targets if number % 2 else reversed(targets):
                span = plan.warm_up_s if warm_up else seconds * plan.phase_scale
                phase = run_phase(workload, target, key, connections, span)
                sent[target.name] += phase.requests
                if not warm_up:
                    results.phases.setdefault((workload.name, connections, target.name), []).append(phase)
    for target in targets:
        if target.ledger:
            settled = books.check(target.ledger, sent[target.name], COST_NUSD, since=since)
            results.settled = settled.plus(results.settled)
    return results
