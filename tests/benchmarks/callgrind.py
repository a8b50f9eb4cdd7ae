"""Instructions of a process under `valgrind --tool=callgrind`, switched on and off from outside."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

MISSING = "valgrind is not installed: apt-get install valgrind"
_SEEN_BY_PROGRAMS = ("avx", "avx2", "bmi2")
"""Valgrind tells programs of these features where the CPU has them, and of no later ones."""


class CouldNotCount(Exception):
    """There are no instructions to tell: why."""


def command(folder: Path) -> tuple[str, ...]:
    """What to run a program under; nothing is counted yet. Raises `CouldNotCount`."""
    valgrind = shutil.which("valgrind")
    if valgrind is None or shutil.which("vgdb") is None:
        raise CouldNotCount(MISSING)
    out = f"--callgrind-out-file={folder}/callgrind.%p"
    return (valgrind, "-q", "--tool=callgrind", "--fair-sched=try", "--instr-atstart=no", out)


def start(pid: int) -> None:
    """Count from now on."""
    _tell(pid, "instrumentation", "on")


def stop(pid: int, folder: Path) -> int:
    """The instructions of all threads since `start`."""
    before = set(folder.glob(f"callgrind.{pid}.*"))
    _tell(pid, "dump")
    _tell(pid, "instrumentation", "off")
    written = set(folder.glob(f"callgrind.{pid}.*")) - before
    if len(written) != 1:
        raise CouldNotCount(f"callgrind wrote {len(written)} dumps instead of one")
    return total(written.pop().read_text().splitlines())


def _tell(pid: int, *words: str) -> None:
    told = subprocess.run(["vgdb", f"--pid={pid}", "--wait=10", *words], capture_output=True, text=True, check=False)
    if told.returncode:
        raise CouldNotCount(f"vgdb {' '.join(words)}: {told.stderr.strip() or told.returncode}")


def total(dump: Iterable[str]) -> int:
    """The instructions of a dump. Its `totals` and not its `summary`, which goes wrong from the second dump on."""
    for line in dump:
        if line.startswith("totals:"):
            return int(line.split()[1])
    raise CouldNotCount("a dump of callgrind has no totals")


def version() -> str:
    said = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=False).stdout
    return said.strip().removeprefix("valgrind-")


def cpu_features(cpuinfo: str) -> str:
    """Those features of /proc/cpuinfo by which libraries under valgrind choose their code."""
    for line in cpuinfo.splitlines():
        if line.startswith("flags"):
            flags = line.partition(":")[2].split()
            return " ".join(name for name in _SEEN_BY_PROGRAMS if name in flags)
    return ""
