"""Processes pinned to a core, and what the kernel says they used."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class CouldNotStart(Exception):
    """A process of the benchmark did not come up; the message ends with what it logged."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where. With one core everything shares it, with two the upstream and the load share one."""

    target: int
    upstream: int
    load: int

    @classmethod
    def of(cls, available: Collection[int]) -> Cores:
        cores = sorted(available)
        return cls(target=cores[-1], upstream=cores[0], load=cores[1] if len(cores) > 2 else cores[0])

    def __str__(self) -> str:
        if self.target == self.load:
            return "one core for everything: the figures include the load's own share of it"
        shared = f"upstream and load share core {self.load}"
        apart = f"upstream on core {self.upstream}, load on core {self.load}"
        return f"target on core {self.target}, {shared if self.upstream == self.load else apart}"


@dataclass(slots=True)
class Pinned:
    """A child process on one core, its output in a file."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    began: float
    """`time.perf_counter` just before it was spawned."""

    @classmethod
    def spawn(
        cls, name: str, command: Sequence[str], core: int, folder: Path, environment: Mapping[str, str] | None = None
    ) -> Pinned:
        log = folder / f"{name}.log"
        # The proxy's own settings in the caller's environment would change what is measured, and a start that compiles
        # every module is nobody's second one.
        ours = ("OXYY_", "PYTHONDONTWRITEBYTECODE")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        with log.open("ab") as out:
            began = time.perf_counter()
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=ROOT,
                env={**inherited, **(environment or {})},
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )
        return cls(name, popen, log, began)

    def stop(self, within_s: float) -> None:
        """SIGTERM, after `within_s` SIGKILL to it and its children; returns when it is gone."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(within_s)
            except subprocess.TimeoutExpired:
                for pid in reversed(tree(self.popen.pid)):
                    os.kill(pid, signal.SIGKILL)
        self.popen.wait()

    def until_ready(self, port: int, path: str | None, within_s: float = 20.0) -> float:
        """Seconds from the spawn until `path` answers 200 on `port`; without a path, until a connection is accepted."""
        while time.perf_counter() - self.began < within_s:
            if self.popen.poll() is not None:
                raise CouldNotStart(f"{self.name} ended with exit code {self.popen.returncode}:\n{self.tail()}")
            if answers(port, path):
                return time.perf_counter() - self.began
            time.sleep(0.002)
        raise CouldNotStart(f"{self.name} was not ready within {within_s:.0f} s:\n{self.tail()}")

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])


def answers(port: int, path: str | None) -> bool:
    """Whether a server accepts on `port` and, given a path, answers it with 200 within a quarter of a second."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.25) as connection:
            if path is None:
                return True
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
            return connection.recv(4096).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def tree(pid: int) -> list[int]:
    """The process and its living descendants (nginx works in a child)."""
    pids = [pid]
    for each in pids:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            pids += [int(child) for child in children.read_text().split()]
    return pids


def cpu_ns(pid: int) -> int:
    """On-CPU time of the process, its threads (those that ended too) and its living descendants."""
    return sum(_process_cpu_ns(each) for each in tree(pid))


def _process_cpu_ns(pid: int) -> int:
    # clock_getcpuclockid(3), which Python does not wrap. The sum over /proc/PID/task/*/schedstat would be as fine,
    # but a thread that ended takes its share with it.
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return parse_stat_cpu_ns(Path(f"/proc/{pid}/stat").read_text())


def parse_stat_cpu_ns(stat: str) -> int:
    """utime + stime of a /proc/PID/stat line; the command in it may hold spaces and parentheses."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * (1_000_000_000 // _TICKS_PER_S)


def rss_bytes(pid: int) -> int:
    """Resident memory of the process and its descendants; pages they share count once for each."""
    return sum(parse_vm_rss(Path(f"/proc/{each}/status").read_text()) for each in tree(pid))


def parse_vm_rss(status: str) -> int:
    """VmRSS of /proc/PID/status in bytes; 0 when there is none (a process that has ended)."""
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
