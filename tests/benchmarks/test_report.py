from __future__ import annotations

import json

import pytest

from tests.benchmarks.__main__ import PARTS, parse, plan_of
from tests.benchmarks.footprint import Memory
from tests.benchmarks.report import Check, Results, as_json, checks, header, markdown, rows
from tests.benchmarks.rounds import FULL, QUICK, Phase, Rounds


def phase(cpu_us: float, seconds: float) -> Phase:
    return Phase(200, 200 / seconds, cpu_us, [seconds / 2] * 200, [seconds] * 200)


@pytest.fixture
def results() -> Results:
    """Two rounds; the second one on a machine twice as slow."""
    per_target = {"direct": (0.0, 0.001), "naive": (200.0, 0.002), "proxy": (260.0, 0.0025)}
    phases = {
        (workload, connections, name): [phase(cpu, seconds), phase(cpu * 2, seconds * 2)]
        for workload in ("json", "paced")
        for connections in (1, 32)
        for name, (cpu, seconds) in per_target.items()
    }
    memory = {
        "naive": Memory(40_000_000, {1: 41_000_000, 1000: 70_000_000}),
        "proxy": Memory(58_000_000, {1: 59_000_000, 1000: 260_000_000}),
    }
    growth = {0: [phase(100, 0.1), phase(200, 0.2)], 10**6: [phase(105, 0.1), phase(214, 0.2)]}
    return Results(Rounds(phases), memory, {"naive": 0.2, "proxy": 0.5}, growth)


def test_the_table_has_a_column_for_each_target_that_ran(results: Results) -> None:
    assert header(results) == ("", "direct", "naive", "proxy", "proxy ÷ naive")
    assert all(len(row) == 5 for row in rows(results))


def test_cpu_and_memory_and_latency_are_in_the_table(results: Results) -> None:
    table = {row[0]: row[1:] for row in rows(results)}
    assert table["JSON ×32: CPU µs/request"] == ("–", "300", "390", "1.30× (1.30–1.30)")
    assert table["JSON ×1: requests/s"] == ("150,000", "75,000", "60,000", "")
    assert table["JSON ×1: added to answer p50 / p99, ms"] == ("(1.50 / 1.50)", "+1.50 / +1.50", "+2.25 / +2.25", "")
    assert table["RSS with 1,000 open streams, MB"] == ("–", "70", "260", "")
    assert table["RSS with 1 open stream, MB"] == ("–", "41", "59", "")
    assert table["JSON ×32, 0 rows in the ledger: CPU µs/request"] == ("–", "–", "150", "")
    grown = table["JSON ×32, 1,000,000 rows in the ledger: CPU µs/request"]
    assert grown == ("–", "–", "160", "1.06× (1.05–1.07) of empty")
    assert table["seconds to ready"] == ("–", "0.20", "0.50", "")
    assert not any(title.startswith("stream at once") for title in table)


def test_each_target_of_the_project_is_judged(results: Results) -> None:
    judged = {check.title: (check.limit, check.met) for check in checks(results)}
    assert judged == {
        "CPU per JSON request, 32 connections, over the naive pass-through": (0.9, False),
        "CPU per paced stream, 32 connections, over the naive pass-through": (0.75, False),
        "added p50, JSON, 1 connection": (1.0, False),
        "ready": (0.5, True),
        "RSS idle": (60, True),
        "RSS with 1,000 open streams": (150, False),
        "CPU per JSON request with 1,000,000 rows, over an empty ledger": (1.1, True),
    }


def test_what_was_not_measured_is_not_judged() -> None:
    nothing = Results(Rounds())
    assert checks(nothing) == rows(nothing) == []


def test_a_missed_target_says_so() -> None:
    assert str(Check("CPU per JSON request", 1.234, 1.5, "×")) == "CPU per JSON request 1.23× (≤ 1.5×) ok"
    assert str(Check("RSS idle", 91.2, 90, " MB")) == "RSS idle 91.2 MB (≤ 90 MB) MISSED"


def test_the_table_is_markdown() -> None:
    assert markdown(("", "a"), [("x", "1,000"), ("yy", "–")]).splitlines() == [
        "|    |     a |",
        "|----|------:|",
        "| x  | 1,000 |",
        "| yy |     – |",
    ]


def test_the_json_holds_every_round(results: Results) -> None:
    figures = json.loads(json.dumps(as_json(results, {"machine": "a box"})))
    assert figures["machine"] == {"machine": "a box"}
    assert [each["cpu_us"] for each in figures["phases"][0]["rounds"]] == [0.0, 0.0]
    assert figures["checks"][0]["met"] is False
    assert [each["rows"] for each in figures["growth"]] == [0, 10**6]


def test_the_parts_to_run_can_be_named() -> None:
    assert parse(["--only", "ready,json"]).only == ("json", "ready")
    assert parse([]).only == PARTS
    assert parse(["--targets", "proxy"]).targets == ("proxy",)


@pytest.mark.parametrize("arguments", [["--only", "video"], ["--targets", "direct"], ["--rounds", "0"]])
def test_an_unknown_part_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(arguments)
    assert exit_.value.code == 2
    assert "error" in capsys.readouterr().err


def test_quick_and_rounds_make_the_plan() -> None:
    assert plan_of(parse([])) == FULL
    assert plan_of(parse(["--quick"])) == QUICK
    assert plan_of(parse(["--rounds", "3"])).rounds == 3
