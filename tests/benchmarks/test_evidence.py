from __future__ import annotations

import tomllib

from tests.benchmarks.evidence import as_toml
from tests.benchmarks.footprint import Memory
from tests.benchmarks.report import Results
from tests.benchmarks.rounds import Phase, Rounds


def phase(cpu_us: float) -> Phase:
    return Phase(200, 100.0, cpu_us, [0.001] * 200, [0.002] * 200)


def test_the_evidence_has_each_figure_with_its_spread_and_each_target() -> None:
    phases = {
        ("json", 32, "direct"): [phase(0), phase(0), phase(0)],
        ("json", 32, "naive"): [phase(100), phase(110), phase(120)],
        ("json", 32, "proxy"): [phase(80), phase(99), phase(90)],
        ("asks-1000", 8, "proxy"): [phase(70)],
    }
    memory = {"proxy": Memory(55_000_000, {1: 56_000_000, 1000: 160_000_000})}
    growth = {0: [phase(80), phase(80)], 1000: [phase(80), phase(96)]}
    results = Results(Rounds(phases), memory, {"proxy": 0.4}, growth, ['5,000 "open" streams were left out'])
    about = {"machine": 'a "fast" one', "ledger and log": "files on ext4", "commit": "abc"}
    written = tomllib.loads(as_toml(results, about, 3, "2026-11-22"))

    assert (written["commit"], written["date"], written["rounds"]) == ("abc", "2026-11-22", 3)
    assert written["left_out"] == ['5,000 "open" streams were left out']
    assert written["machine"] == {"machine": 'a "fast" one', "ledger_and_log": "files on ext4"}
    assert [(each["wanted"], each["seen"], each["met"]) for each in written["target"]] == [
        ("<= 0.9×", 0.8, True),
        ("<= 0.5 s", 0.4, True),
        ("<= 60 MB", 55.0, True),
        ("<= 150 MB", 160.0, False),
        ("<= 1.1×", 1.1, True),
    ]
    of = {(each["workload"], each["target"]): each for each in written["phase"]}
    assert of["JSON", "proxy"]["cpu_us"] == [90, 80, 99]
    assert of["JSON", "proxy"]["cpu_over_naive"] == [0.8, 0.75, 0.9]
    assert of["JSON", "proxy"]["added_last_byte_p50_ms"] == 0
    assert of["JSON", "direct"]["last_byte_p99_ms"] == 2
    assert "cpu_us" not in of["JSON", "direct"]
    assert of["JSON, request of 1 KB", "proxy"]["cpu_us"] == [70, 70, 70]
    assert [each["rows"] for each in written["growth"]] == [0, 1000]
    assert written["growth"][1]["cpu_over_empty"] == [1.1, 1.0, 1.2]
    assert written["memory"] == [{"target": "proxy", "idle_mb": 55, "open_streams_mb": {"1": 56, "1000": 160}}]
    assert written["ready_s"] == {"proxy": 0.4}
