from __future__ import annotations

import hashlib
from pathlib import Path

from oxyy_proxy import policyfiles
from tests.benchmarks.targets import KEY, write_policies
from tests.benchmarks.workloads import COST_NUSD, INPUT_TOKENS, MODEL, OUTPUT_TOKENS


def test_the_policies_of_the_benchmark_count_every_meter_and_are_valid(tmp_path: Path) -> None:
    write_policies(tmp_path)
    policy = policyfiles.load(tmp_path).policy
    team = policy.keys[hashlib.sha256(KEY.encode()).hexdigest()].team
    assert {limit.meter for limit in team.limits} == {"usd", "tokens", "requests", "concurrent"}
    assert [limit.meter for limit in policy.limits] == ["usd"]


def test_the_price_of_a_request_is_the_one_that_the_books_are_checked_against(tmp_path: Path) -> None:
    write_policies(tmp_path)
    prices = policyfiles.load(tmp_path).policy.models[MODEL].prices
    per_million = INPUT_TOKENS * prices["input"].default + OUTPUT_TOKENS * prices["output"].default
    assert per_million == COST_NUSD * 1_000_000
