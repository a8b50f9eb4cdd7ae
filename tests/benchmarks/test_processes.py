from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks.processes import Cores, CouldNotStart, Pinned, cpu_ns, parse_stat_cpu_ns, parse_vm_rss, rss_bytes

CORE = max(os.sched_getaffinity(0))
_BURN_IN_A_THREAD = """
import threading, time
def burn():
    while time.thread_time() < 0.2: pass
thread = threading.Thread(target=burn); thread.start(); thread.join()
print("done", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("available", "expected"),
    [({3}, Cores(3, 3, 3)), ({0, 1}, Cores(1, 0, 0)), ({0, 1, 2, 3}, Cores(target=3, upstream=0, load=1))],
)
def test_the_target_has_a_core_of_its_own_where_there_are_two(available: set[int], expected: Cores) -> None:
    assert Cores.of(available) == expected


def test_the_report_says_when_there_is_one_core_for_everything() -> None:
    assert "one core for everything" in str(Cores.of({0}))


def test_cpu_time_includes_threads_that_ended_and_children() -> None:
    spawn = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_BURN_IN_A_THREAD!r}])"
    with subprocess.Popen([sys.executable, "-c", spawn], stdout=subprocess.PIPE, process_group=0) as parent:
        try:
            assert parent.stdout
            assert parent.stdout.readline() == b"done\n"
            assert 0.2e9 <= cpu_ns(parent.pid) < 2e9
        finally:
            os.killpg(parent.pid, 9)


def test_cpu_time_of_this_process_agrees_with_its_own_clock() -> None:
    before = time.process_time_ns()
    assert before <= cpu_ns(os.getpid()) <= time.process_time_ns() + 50_000_000


def test_the_fallback_reads_user_and_system_time_of_any_command() -> None:
    stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 1 0 0 0 150 25 7 7 20 0 1 0 100 1 1"
    assert parse_stat_cpu_ns(stat) == 175 * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def test_rss_is_read_in_bytes() -> None:
    assert parse_vm_rss("Name:\tx\nVmPeak:\t 9 kB\nVmRSS:\t    2048 kB\n") == 2048 * 1024
    assert parse_vm_rss("Name:\tzombie\n") == 0
    assert rss_bytes(os.getpid()) > 5_000_000


def test_a_child_runs_on_its_core_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"]
    child = Pinned.spawn("child", command, CORE, tmp_path)
    child.popen.wait(10)
    assert child.tail() == str({CORE})


def test_settings_of_the_caller_do_not_reach_what_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OXYY_DURABILITY", "power")
    command = [sys.executable, "-c", "import os; print(sorted(key for key in os.environ if key.startswith('OXYY')))"]
    child = Pinned.spawn("child", command, CORE, tmp_path, {"OXYY_API_KEY": "sk-bench"})
    child.popen.wait(10)
    assert child.tail() == "['OXYY_API_KEY']"


def test_a_child_that_ends_at_once_is_reported_with_what_it_said(tmp_path: Path) -> None:
    child = Pinned.spawn("child", [sys.executable, "-c", "raise SystemExit('no such flag')"], CORE, tmp_path)
    with pytest.raises(CouldNotStart, match="exit code 1:\nno such flag"):
        child.until_ready(1, None)
    child.stop(1)
