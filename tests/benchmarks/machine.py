"""Where the figures were made: without it they say nothing."""

from __future__ import annotations

import platform
import sqlite3
import subprocess
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.processes import ROOT, Cores
from tests.benchmarks.targets import nginx


def describe(cores: Cores, available: int, folder: Path) -> dict[str, str]:
    """What to print above the table, by name."""
    return {
        "machine": f"{cpu_model()}, {available} core{'s' if available > 1 else ''}, Linux {platform.release()}",
        "pinned": str(cores),
        "versions": ", ".join(
            [
                f"{platform.python_implementation()} {platform.python_version()}",
                *(f"{name} {version(name)}" for name in ("aiohttp", "uvloop")),
                f"SQLite {sqlite3.sqlite_version}",
                _nginx_version(),
            ]
        ),
        "ledger and log": f"files on {_filesystem(folder)}",
        "commit": commit(),
    }


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _filesystem(folder: Path) -> str:
    best, kind = "", "an unknown file system"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mounted_on, fstype, *_ = line.split()
        if folder.is_relative_to(mounted_on) and len(mounted_on) >= len(best):
            best, kind = mounted_on, fstype
    return kind


def _nginx_version() -> str:
    binary = nginx()
    if binary is None:
        return "no nginx"
    said = subprocess.run([binary, "-v"], capture_output=True, text=True, check=False).stderr
    return f"nginx {said.rpartition('/')[2].strip()}"


def commit() -> str:
    def git(*words: str) -> str:
        try:
            return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""

    commit = git("rev-parse", "--short", "HEAD")
    changed = " with uncommitted changes" if git("status", "--porcelain") else ""
    return commit + changed if commit else "unknown"
