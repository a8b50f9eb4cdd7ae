from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import callgrind
from tests.benchmarks.callgrind import CouldNotCount, cpu_features, total

_ADDS_UP_ON_A_LINE = """
import sys
print("up", flush=True)
for line in sys.stdin:
    sum(range(int(line)))
    print("done", flush=True)
"""


def test_the_total_of_a_dump_is_read_and_not_its_summary() -> None:
    dump = ["# callgrind format", "events: Ir", "summary: 18446744073630832304", "fn=(1)", "0 5", "totals: 399465151"]
    assert total(dump) == 399_465_151


def test_a_dump_that_was_cut_short_is_an_error() -> None:
    with pytest.raises(CouldNotCount, match="no totals"):
        total(["events: Ir", "summary: 5"])


def test_features_that_valgrind_hides_do_not_count() -> None:
    assert cpu_features("processor : 0\nflags\t\t: fpu sse2 avx bmi2 avx512f avx2 erms\nbugs :\n") == "avx avx2 bmi2"
    assert cpu_features("Features : asimd\n") == ""


def test_without_valgrind_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CouldNotCount, match="apt-get install valgrind"):
        callgrind.command(tmp_path)


def test_only_what_happens_between_start_and_stop_is_counted(tmp_path: Path) -> None:
    try:
        under = callgrind.command(tmp_path)
    except CouldNotCount as missing:
        pytest.skip(str(missing))
    command = [*under, sys.executable, "-S", "-c", _ADDS_UP_ON_A_LINE]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    program = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, process_group=0, text=True
    )
    with program:
        assert program.stdin
        assert program.stdout
        assert program.stdout.readline() == "up\n"

        def counted(numbers: int) -> int:
            assert program.stdin
            assert program.stdout
            callgrind.start(program.pid)
            program.stdin.write(f"{numbers}\n")
            program.stdin.flush()
            assert program.stdout.readline() == "done\n"
            return callgrind.stop(program.pid, tmp_path)

        few, many, again = counted(1000), counted(21_000), counted(21_000)
        program.stdin.close()
    assert 20_000 * 10 < many - few < 20_000 * 1000
    assert abs(again - many) < many * 0.02
