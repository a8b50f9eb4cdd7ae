"""Scenarios in which models fail: what clients notice, what the upstream is spared, what it costs."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from time import monotonic
from typing import Any

from oxyy_proxy.rules.allowance import FLOOR, WINDOW_S
from oxyy_proxy.simulator.faults import Fault, FaultBoard, parse_fault
from tests.faults.checks import always
from tests.faults.entries import Entry
from tests.faults.found import Found, Scale
from tests.faults.load import chat, flood
from tests.faults.outcome import Answer
from tests.faults.stage import Stage, outcome_of, stage

CLIENTS = 32
WARM_UP = 200
FAILURES = 5


def _entry(*, fallback: bool = True, retry: Mapping[str, Any] | None = None, **policy: Any) -> Entry:
    return Entry("scenario", "upstream", "", {}, (), {}, (), fallback=fallback, policy={"retry": retry or {}, **policy})


async def _problems(rig: Stage, answers: list[Answer]) -> list[str]:
    """What must hold after every scenario: the bill is in the ledger, nothing is left, the log tells of no defect."""
    return list(always(await outcome_of(rig, answers)))[:3]


def _asked(rig: Stage) -> Counter[str]:
    """How often each model was asked since the simulator began to count."""
    return Counter(entry.model for entry in rig.simulator.bill)


async def one_model_down(folder: Path, seed: int, scale: Scale) -> Found:
    """One model at 100 % 503, with a fallback."""
    requests = scale.requests(5000)
    async with stage(_entry(breaker={"failures": FAILURES}), folder) as rig:
        await flood(rig.url, [chat() for _ in range(WARM_UP)], CLIENTS)
        rig.simulator.faults.add({"fault": "status", "status": 503, "model": "gpt-5"})
        answers = await flood(rig.url, [chat() for _ in range(requests)], CLIENTS)
        calls = _asked(rig)["gpt-5"] - WARM_UP
        problems = await _problems(rig, answers)
    answered = sum(answer.status == 200 for answer in answers)
    # What was on its way when the breaker opened could not be known to be in vain.
    once_open = max(0, calls - FAILURES - CLIENTS)
    return Found(
        "one model at 100 % 503, with a fallback",
        f"100 % of {requests:,} answered 200; calls to the dead model <= 2 % once the breaker is open",
        f"{answered / requests:.2%} answered 200; {calls} calls to the dead model, {once_open / requests:.2%} once open"
        + _told(problems),
        answered == requests and once_open <= 0.02 * requests and not problems,
    )


async def everything_down(folder: Path, seed: int, scale: Scale) -> Found:
    """Every model at 100 % 503, first with breakers that never open, so that the retry budget is alone, then with them.
    The budget has a floor, of a few retries in each of its windows however few requests there are."""
    requests, deadline_s, seen, ok = scale.requests(10_000), 5.0, [], True
    for name, failures in (("retry budget alone", 1_000_000), ("with breakers", FAILURES)):
        (folder / name).mkdir()
        entry = _entry(retry={"deadline": f"{deadline_s:.0f}s"}, breaker={"failures": failures})
        async with stage(entry, folder / name) as rig:
            rig.simulator.faults.add({"fault": "status", "status": 503})
            began = monotonic()
            answers = await flood(rig.url, [chat() for _ in range(requests)], CLIENTS)
            floor = FLOOR * ceil((monotonic() - began) / WINDOW_S)
            calls, problems = len(rig.simulator.bill), await _problems(rig, answers)
        slowest_s = max(answer.took_s for answer in answers)
        statuses = Counter(answer.status for answer in answers)
        seen.append(
            f"{name}: {calls:,} calls, {calls / requests:.3f}x, slowest {slowest_s:.2f} s, {_counts(statuses)}"
            + _told(problems)
        )
        ok = (
            ok
            and calls - floor <= 1.2 * requests
            and slowest_s <= deadline_s
            and set(statuses) == {503}
            and not problems
        )
    return Found(
        "everything at 100 % 503",
        f"upstream calls <= 1.2x {requests:,} requests (and the floor, {FLOOR} in {WINDOW_S} s); every client is "
        f"answered within its deadline of {deadline_s} s",
        "; ".join(seen),
        ok,
    )


class _EveryFifth(FaultBoard):
    """A fifth of each model's answers fail, at random places: the cards of a deck, shuffled anew when it is used up, so
    that the share is a fifth for few calls too."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(lambda seconds: None)
        self._rng = rng
        self._decks: defaultdict[str, list[bool]] = defaultdict(list)
        self._fault = parse_fault({"fault": "status", "status": 500})

    def match(self, model: str, stream: bool, poll: bool = False) -> Fault | None:
        deck = self._decks[model]
        if not deck:
            deck += [True] + [False] * 4
            self._rng.shuffle(deck)
        return self._fault if deck.pop() and not poll else None


CHAIN = ("gpt-5", "gpt-5-mini", "gpt-5-nano")


async def random_500s(folder: Path, seed: int, scale: Scale) -> Found:
    """A fifth of all answers are 500, chains of three. One request in four needs a retry (20 + 4 %), which a budget of
    20 % could not cover: this policy allows 40."""
    requests = scale.requests(5000)
    async with stage(_entry(retry={"budget_percent": 40}), folder, chain=CHAIN) as rig:
        await flood(rig.url, [chat() for _ in range(WARM_UP)], CLIENTS)
        rig.simulator.faults = _EveryFifth(random.Random(seed))
        answers = await flood(rig.url, [chat() for _ in range(requests)], CLIENTS)
        outcome = await outcome_of(rig, answers)
        billed = rig.simulator.total_nusd
    problems = list(always(outcome))[:3]
    answered = sum(answer.status == 200 for answer in answers)
    settled = sum(row["cost_nusd"] for row in outcome.rows)
    return Found(
        "20 % random 500s, chains of three",
        f">= 99 % of {requests:,} answered 200; the bill equals the ledger (budget_percent 40)",
        f"{answered / requests:.2%} answered 200; billed {billed:,}, in the ledger {settled:,} nano-USD"
        + _told(problems),
        answered >= 0.99 * requests and billed == settled and not problems,
    )


async def silent_upstream(folder: Path, seed: int, scale: Scale) -> Found:
    """One model that says nothing, then both."""
    requests, first_byte_s, deadline_s = scale.requests(200), 0.4, 1.0
    retry = {"first_byte": "400ms", "answer": "400ms", "deadline": "1s", "budget_percent": 100}
    late_s = 0.5  # a time-out is noticed up to 0.1 s late, a back-off is up to 0.1 s, and the machine is shared
    async with stage(_entry(retry=retry, breaker={"failures": 1_000_000}), folder) as rig:
        rig.simulator.faults.add({"fault": "hang_before_headers", "model": "gpt-5"})
        bodies = [chat(stream=n % 2 == 0) for n in range(requests)]
        one = await flood(rig.url, bodies, CLIENTS)
        rig.simulator.faults.add({"fault": "hang_before_headers"})
        both = await flood(rig.url, bodies, CLIENTS)
        problems = await _problems(rig, [*one, *both])
    answered = [answer.took_s for answer in one if answer.status == 200]
    longest = max(answer.took_s for answer in both)
    moved_on = len(answered) == requests and first_byte_s <= min(answered) <= max(answered) <= first_byte_s + late_s
    return Found(
        "upstream silent",
        f"next model tried after first_byte ({first_byte_s} s); never past the deadline ({deadline_s} s)",
        f"{len(answered)} of {requests} answered by the next model within {max(answered, default=0):.2f} s; "
        f"all silent: given up after {longest:.2f} s at most" + _told(problems),
        moved_on and {answer.status for answer in both} == {504} and longest <= deadline_s + late_s and not problems,
    )


def _counts(statuses: Mapping[int, int]) -> str:
    return ", ".join(f"{count:,} x {status}" for status, count in sorted(statuses.items()))


def _told(problems: list[str]) -> str:
    return f"; WRONG: {' | '.join(problems)}" if problems else ""


SCENARIOS = (one_model_down, everything_down, random_500s, silent_upstream)
