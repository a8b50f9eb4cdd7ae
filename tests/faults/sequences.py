"""Random sequences of faults: whatever happens in whatever order, the ledger answers for what the upstream bills.

A sequence is a number: it decides the policy, the faults and when they come, the requests, and which clients leave.
What is concurrent still happens in any order; a sequence that fails is played again with `--seed N --sequences 1`.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from oxyy_proxy.simulator.effects import KINDS
from oxyy_proxy.simulator.faults import parse_fault
from tests.faults.checks import always
from tests.faults.entries import Entry
from tests.faults.outcome import Answer
from tests.faults.questions import QUESTIONS
from tests.faults.stage import Stage, hear, more, outcome_of, stage
from tests.rig import KEY
from tests.steps.wires import WAIT_S, Wire, dial, request

CLIENTS = 32
SHARES = {"chat": 8, "speech": 3, "embeddings": 2, "transcriptions": 2, "images": 2, "videos": 1}
STATUSES = (500, 503, 500, 503, 429, 401, 403, 400, 404, 307, 502, 504)


@dataclass(frozen=True)
class Asked:
    """One request of a sequence. `faults`: what the simulator is told just before it, None: nothing new. `leaves`: its
    client is gone after so many chunks of the answer, None: it stays."""

    endpoint: str
    stream: bool
    wishes: Mapping[str, Any]
    faults: list[dict[str, Any]] | None
    leaves: int | None


@dataclass(frozen=True)
class Played:
    """What came of a sequence: how its requests ended, what was billed and settled for them and is still held, and what
    is wrong."""

    seed: int
    requests: int
    problems: list[str]
    states: Counter[str] = field(default_factory=Counter)
    billed_nusd: int = 0
    settled_nusd: int = 0
    held_nusd: int = 0


def plan(seed: int, requests: int) -> tuple[Entry, list[Asked]]:
    """The policy and the requests of a sequence."""
    rng = random.Random(seed)
    retry = {
        "attempts": rng.randint(1, 4),
        "deadline": rng.choice(("400ms", "1s", "3s")),
        "first_byte": rng.choice(("150ms", "300ms")),
        "answer": rng.choice(("150ms", "300ms")),
        "idle": rng.choice(("150ms", "300ms")),
        "budget_percent": rng.choice((0, 20, 100)),
        "on": rng.choice(([500, 503], [429, 500, 502, 503])),
    }
    breaker = {"failures": rng.choice((5, 20, 1000)), "window": "1s", "open_for": rng.choice(("20ms", "200ms"))}
    policy = {"retry": retry, "breaker": breaker, "on_disconnect": rng.choice(("drain", "cancel")), "drain": "300ms"}
    entry = Entry("sequence", "upstream", "", {}, (), {}, (), fallback=rng.random() < 0.8, policy=policy)
    return entry, [_asked(rng) for _ in range(requests)]


def _asked(rng: random.Random) -> Asked:
    endpoint = rng.choices(list(SHARES), list(SHARES.values()))[0]
    stream = endpoint == "chat" and rng.random() < 0.6
    wishes: dict[str, Any] = {}
    if endpoint == "chat":
        wishes["words"] = rng.randint(1, 30)
    if endpoint == "speech":
        wishes |= {"bytes": rng.randint(1, 30_000), "chunked": rng.random() < 0.5}
    if endpoint != "transcriptions" and rng.random() < 0.25:
        own = _fault(rng, stream)
        if "bytes" not in wishes or own["fault"] != "drip":
            wishes |= own
    faults = None
    if rng.random() < 0.08:
        faults = [_on_the_board(rng) for _ in range(rng.randint(0, 3))]
    leaves = rng.randint(0, 4) if rng.random() < 0.06 else None
    return Asked(endpoint, stream, wishes, faults, leaves)


def _fault(rng: random.Random, stream: bool) -> dict[str, Any]:
    """Any fault of the simulator with any parameters."""
    name = rng.choice([name for name, kind in KINDS.items() if stream or kind.only is None])
    if name == "refuse":  # drops every connection of the others, too
        name = "status" if rng.random() < 0.8 else name
    any_of = {
        "status": lambda: rng.choice(STATUSES),
        "headers": lambda: rng.choice(({}, {"Retry-After": "1"}, {"Location": "http://127.0.0.1:1/"})),
        "for_s": lambda: rng.choice((0.05, 0.2, 0.6)),
        "after_bytes": lambda: rng.choice((0, 1, 50, 300, 2000)),
        "bytes": lambda: rng.choice((20, 200, 5000)),
        "every_ms": lambda: rng.choice((1, 5)),
    }
    return {"fault": name, **{key: any_of[key]() for key in KINDS[name].parameters}}


def _on_the_board(rng: random.Random) -> dict[str, Any]:
    question = QUESTIONS[rng.choices(list(SHARES), list(SHARES.values()))[0]]
    fault = _fault(rng, question.endpoints == ("chat",))
    fault["model"] = rng.choice((question.main, question.main, question.spare))
    return fault | {"times": rng.randint(1, 30)}


async def play(seed: int, requests: int, folder: Path) -> Played:
    """Play one sequence in `folder`, which is empty."""
    entry, asked = plan(seed, requests)
    async with stage(entry, folder) as rig:
        waiting = iter(asked)
        answers: list[Answer] = []
        async with asyncio.TaskGroup() as group:
            for _ in range(min(CLIENTS, requests)):
                group.create_task(_client(rig, waiting, answers))
        rig.simulator.faults.clear()
        await _follow_jobs(rig)
        outcome = await outcome_of(rig, answers)
    problems = [*always(outcome), *_answered(answers, outcome.rows)]
    return Played(
        seed,
        len(asked),
        problems,
        Counter(row["state"] for row in outcome.rows),
        billed_nusd=sum(sum(by_model.values()) for by_model in outcome.billed.values()),
        settled_nusd=sum(row["cost_nusd"] for row in outcome.rows),
        held_nusd=sum(row["unresolved_nusd"] for row in outcome.rows),
    )


async def _client(rig: Stage, waiting: Any, answers: list[Answer]) -> None:
    """Asks what is next on one connection for as long as that stays."""
    while True:
        async with dial(rig) as wire:
            answer = None
            for each in waiting:
                if each.faults is not None:
                    rig.simulator.faults.replace([parse_fault(fault) for fault in each.faults])
                answer = await _ask(wire, each)
                if answer is None:
                    break
                answers.append(answer)
                if answer.status == 0 or not answer.whole or answer.headers.get("connection") == "close":
                    break
            else:
                if answer is not None:
                    behind = await more(wire, answer)
                    answers.append(Answer(200, more=behind))
                return


async def _ask(wire: Wire, each: Asked) -> Answer | None:
    """Its answer, None where the client left before it had it."""
    question = QUESTIONS[each.endpoint]
    content_type, body = question.body(stream=each.stream, wishes=each.wishes)
    began = monotonic()
    await wire.send(request(body, path=question.path, headers={"Content-Type": content_type}))
    if each.leaves is None:
        return await hear(wire, began)
    with suppress(ConnectionError, asyncio.IncompleteReadError, ValueError):
        if each.leaves:
            _, headers = await wire.head()
            if "chunked" in headers.get("transfer-encoding", ""):
                for _ in range(each.leaves):
                    if not await wire.chunk():
                        break
    wire.reset()
    return None


async def _follow_jobs(rig: Stage) -> None:
    """Ask for every video until it is there; the proxy's own poller may take its time."""
    async with asyncio.timeout(WAIT_S):
        for job_id in rig.simulator.jobs:
            state = "running"
            while state not in ("completed", "failed"):
                status, _, body = await rig.get(f"/videos/generations/{job_id}", KEY)
                if status == 404:  # its answer never came to the proxy
                    break
                state = body.get("status")  # an outage may still go on


def _answered(answers: list[Answer], rows: list[dict[str, Any]]) -> list[str]:
    """Answers against their rows."""
    problems, by_id = [], {row["request_id"]: row for row in rows}
    ids = [answer.headers["x-request-id"] for answer in answers if "x-request-id" in answer.headers]
    if len(ids) != len(set(ids)):
        problems.append("two answers have one request id")
    for answer in answers:
        row = by_id.get(answer.headers.get("x-request-id", ""))
        if answer.status == 0 and not answer.headers:
            problems.append("a connection ended without an answer")
        if row is None:
            if answer.status == 200 and answer.headers:
                problems.append(f"a 200 without a row: {answer.headers}")
            continue
        if row["status"] != answer.status:
            problems.append(f"answered {answer.status}, on record {row['status']}: {row}")
        problems += _promised(answer, row)
    return problems


def _promised(answer: Answer, row: Mapping[str, Any]) -> list[str]:
    """What a 200 says of its cost and its end is what is on record."""
    if answer.status != 200 or not answer.whole:
        return []
    cost = answer.headers.get("x-oxyy-cost-usd")
    problems = []
    if cost is not None and round(float(cost) * 1e9) != row["cost_nusd"]:
        problems.append(f"the header says {cost} USD: {row}")
    if answer.body.endswith(b"data: [DONE]\n\n") and row["state"] != "settled":
        problems.append(f"[DONE] before it was settled: {row}")
    if answer.headers["content-type"].startswith("application/json"):
        with suppress(ValueError):
            json.loads(answer.body)
            return problems
        problems.append(f"a 200 that is not JSON: {answer.body[:200]!r}")
    return problems
