"""Where the proxy's time goes: a flame graph of the proxy alone under load, by py-spy."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.rounds import run_phase
from tests.benchmarks.targets import PROXY, Stage
from tests.benchmarks.workloads import Workload

CONNECTIONS = 8
_RATE_HZ = 400
_ATTACHED_WITHIN_S = 1.5


class CouldNotProfile(Exception):
    """There is no profile: what is missing."""


def py_spy() -> str | None:
    return shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")


def record(stage: Stage, workload: Workload, out: Path, key: str, seconds: int) -> None:
    """Writes the flame graph of so many seconds to `out`, an SVG. Raises `CouldNotProfile`."""
    program = py_spy()
    if program is None:
        raise CouldNotProfile("py-spy is not installed: pip install py-spy")
    target = stage.start(PROXY)
    try:
        assert target.process is not None
        run_phase(workload, target, key, CONNECTIONS, 0.3)
        options = {
            "--pid": target.process.popen.pid,
            "--duration": seconds,
            "--rate": _RATE_HZ,
            "--format": "flamegraph",
            "--output": out,
        }
        command = [program, "record", *(str(word) for pair in options.items() for word in pair)]
        spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            run_phase(workload, target, key, CONNECTIONS, seconds + _ATTACHED_WITHIN_S)
            _, said = spy.communicate(timeout=30)
        finally:
            spy.kill()
            spy.wait()
    finally:
        target.stop()
    if spy.returncode or not out.exists():
        reason = (said.strip().splitlines() or ["it said nothing"])[0]
        raise CouldNotProfile(f"py-spy: {reason} (it must be allowed to trace: as root, or kernel.yama.ptrace_scope=0)")
