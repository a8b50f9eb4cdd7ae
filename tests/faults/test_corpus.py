"""Bytes of all kinds: what is accepted, what is refused, and what never happens whatever they are."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from oxyy_proxy.ledger.sqlite_reads import verify
from tests.faults.checks import DEFECTS
from tests.faults.corpus import CASES
from tests.faults.corpus.case import Case
from tests.faults.corpus.fuzz import mutated
from tests.faults.corpus.parsers import by_h11, by_httptools
from tests.faults.corpus.play import asked, forget, never, play, sent_upstream
from tests.faults.stage import Stage
from tests.rig import KEY

pytestmark = pytest.mark.asyncio(loop_scope="module")

AT_ONCE = 25
FUZZED = 1000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """One proxy for the whole file: what one case leaves behind would show in the next."""
    stage = Stage(tmp_path_factory.mktemp("corpus"))
    await stage.start()
    yield stage
    await stage.stop()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_bytes(shared: Stage, case: Case) -> None:
    said, rows = len(shared.events()), len(shared.rows())
    forget(shared)
    played = await play(shared, case.sent, len(case.answers), case.ends, case.pieces)
    assert (tuple(answer.status for answer in played.answers), played.ends) == (case.answers, case.ends)
    upstream = sent_upstream(shared)
    assert tuple(upstream.values()) == case.asked
    assert list(never(played, asked(played, upstream))) == []
    assert [row["state"] for row in shared.rows()[rows:]] == ["settled"] * len(case.asked)
    log = shared.events()[said:]
    assert KEY not in json.dumps(log)
    assert not DEFECTS & {event.get("event") for event in log}


@pytest.mark.parametrize("case", [case for case in CASES if case.parsers], ids=lambda case: case.name)
async def test_other_parsers_read_what_is_accepted_in_the_same_way(case: Case) -> None:
    for parser in (by_h11, by_httptools):
        read = parser(case.sent)
        assert len(read.requests) == len(case.answers), read
        assert tuple(body for method, body in read.requests if method == "POST") == case.asked


async def test_what_no_parser_is_held_against_says_why() -> None:
    assert [case.name for case in CASES if case.asked and not case.parsers and not case.why] == []
    assert not {name: count for name, count in Counter(case.name for case in CASES).items() if count > 1}


async def test_no_bytes_do_harm(shared: Stage) -> None:
    seed = int(os.environ.get("FUZZ_SEED") or random.randrange(2**32))
    print(f"FUZZ_SEED={seed}")
    assert await fuzz(shared, seed, FUZZED) == []
    verdict = await verify(f"sqlite:///{shared.ledger_path}")
    assert (verdict.broken, verdict.open, verdict.unresolved) == ((), 0, 0)
    assert sum(row["cost_nusd"] for row in shared.rows()) == shared.simulator.total_nusd


async def fuzz(rig: Stage, seed: int, count: int) -> list[str]:
    """So many changed requests; what was wrong, with the bytes that brought it about."""
    rng = random.Random(seed)
    wrong: list[str] = []
    for start in range(0, count, AT_ONCE):
        forget(rig)
        said = len(rig.events())
        requests = [mutated(rng) for _ in range(min(AT_ONCE, count - start))]
        plays = [asyncio.wait_for(play(rig, sent, None, "closed", rng.choice((1, 1, 3))), 30) for sent in requests]
        results = await asyncio.gather(*plays, return_exceptions=True)
        upstream = sent_upstream(rig)
        for sent, played in zip(requests, results, strict=True):
            if isinstance(played, BaseException):
                wrong.append(f"{sent!r}: {played!r}")
            else:
                wrong += [f"{sent!r}: {each}" for each in never(played, asked(played, upstream))]
        wrong += [f"sent upstream for none of these: {body!r}" for body in upstream.values()]
        log = rig.events()[said:]
        if KEY in json.dumps(log) or DEFECTS & {event.get("event") for event in log}:
            wrong.append(f"one of {requests!r}: {log}")
    return wrong
