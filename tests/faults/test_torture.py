"""`make torture` in small: a few sequences, the scenarios with a share of their requests, and the evidence."""

from __future__ import annotations

import os
import random
import tomllib
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults import drains, outages, slow
from tests.faults.evidence import Evidence, as_toml
from tests.faults.found import REDUCED, Found, Scale
from tests.faults.sequences import Played, plan, play

SEQUENCES = 5
REQUESTS = 200
SCENARIOS = (*outages.SCENARIOS, *drains.SCENARIOS, slow.memory)
"""Not how teams move each other's p99: that takes minutes of measuring on a machine that does nothing else."""

Scenario = Callable[[Path, int, Scale], Awaitable[Found]]


@pytest.mark.parametrize("number", range(SEQUENCES))
async def test_after_a_random_sequence_of_faults_the_ledger_answers_for_the_bill(number: int, tmp_path: Path) -> None:
    seed = int(os.environ.get("FAULT_SEED") or random.randrange(2**31))
    print(f"FAULT_SEED={seed}")
    played = await play(seed, REQUESTS, tmp_path)
    assert played.problems == [], f"python -m tests.faults --only sequences --sequences 1 --seed {seed}"
    assert played.billed_nusd > 0


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_scenario(scenario: Scenario, tmp_path: Path) -> None:
    found = await scenario(tmp_path, random.randrange(2**31), REDUCED)
    assert found.ok, f"{found.name}: wanted {found.wanted}; seen {found.seen}"


def test_a_sequence_is_its_seed() -> None:
    assert plan(7, 50) == plan(7, 50)
    assert plan(7, 50) != plan(8, 50)


def test_the_evidence_says_what_failed_and_how_to_see_it_again() -> None:
    found = Evidence(
        7,
        {"503": [], "dns": ["client: status 200 instead of 502"]},
        [Played(7, 200, [], Counter(settled=190), 5, 4, 3), Played(8, 200, ["an open row"])],
        [Found("drains", "0 cut", "1 cut", False)],
    )
    written = tomllib.loads(as_toml(found, {"machine": 'a "fast" one', "commit": "abc"}))
    assert (written["commit"], written["seed"], written["machine"]) == ("abc", 7, {"machine": 'a "fast" one'})
    assert written["matrix"] == {"entries": 2, "passed": 1, "failed": ["dns"]}
    assert written["sequences"] == {
        "played": 2, "requests": 400, "failed": [8], "rows": {"settled": 190},
        "billed_nusd": 5, "settled_nusd": 4, "unresolved_nusd": 3,
    }  # fmt: skip
    assert written["scenario"] == [{"name": "drains", "wanted": "0 cut", "seen": "1 cut", "ok": False}]
    assert not found.passed
    assert "--only sequences --sequences 1 --seed 8" in "\n".join(found.wrong())
