"""`make bench-check`: has a request become dearer? Instructions per request, which do not depend on what else runs.

They depend on the versions of Python and its libraries, and on the CPU's features: where these differ from those of
the committed figures, what is compared is the ratio to the naive pass-through, counted in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import signal
import sqlite3
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import uvloop

from tests.benchmarks import books, callgrind, machine
from tests.benchmarks.callgrind import CouldNotCount
from tests.benchmarks.evidence import text
from tests.benchmarks.load import Load, WrongAnswer
from tests.benchmarks.processes import Cores, CouldNotStart, Pinned, free_port
from tests.benchmarks.progress import Progress
from tests.benchmarks.rounds import Step
from tests.benchmarks.targets import KEY, NAIVE, PROXY, Stage, Target
from tests.benchmarks.workloads import BURST, COST_NUSD, JSON, Workload

FILE = Path(__file__).parents[1] / "evidence" / "instructions.toml"
TOLERANCE = 0.03
CONNECTIONS = 8
TIMES = range(2, 6)
AGREE_WITHIN = 0.01
"""A count is made again until the least two agree, so many times at least and at most."""

WARM_UP = 320
REQUESTS = ((JSON, 400), (BURST, 160))
"""Of each count."""

_AFTERMATH_S = 0.3
"""Commits and log lines of the last answers are counted too."""

_PATIENCE_S = 180.0
_LIBRARIES = ("aiohttp", "uvloop", "httptools", "orjson", "prometheus-client", "structlog")
_EXAMPLES = """\
examples:
  python -m tests.benchmarks.instructions             fails if a request costs 3 % more than the committed figure
  python -m tests.benchmarks.instructions --update    commits to what is counted now
"""

Figures = Mapping[str, Mapping[str, int]]
"""Instructions per request, by workload and target."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What the file says."""

    environment: dict[str, str]
    figures: Figures


@dataclass(frozen=True, slots=True)
class Verdict:
    """`failed`: one sentence for each workload that became dearer. `said`: about all of them."""

    failed: tuple[str, ...]
    said: tuple[str, ...]


def environment() -> dict[str, str]:
    """What instruction counts depend on, besides our code."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()} {platform.python_compiler()}",
        "libraries": ", ".join(f"{name} {version(name)}" for name in _LIBRARIES),
        "sqlite": sqlite3.sqlite_version,
        "libc": " ".join(platform.libc_ver()),
        "valgrind": callgrind.version(),
        "cpu": f"{platform.machine()} {callgrind.cpu_features(Path('/proc/cpuinfo').read_text())}".strip(),
    }


def read(file: Path) -> Committed:
    """Raises `CouldNotCount` when there is nothing to compare with."""
    if not file.exists():
        raise CouldNotCount(f"there is no {file}: write it with --update")
    content = tomllib.loads(file.read_text())
    return Committed(content["environment"], content["instructions"])


def as_toml(figures: Figures, about: Mapping[str, str], commit: str, box: str) -> str:
    """The file's text."""
    rows = [
        f"{name} = {{ {', '.join(f'{target} = {count}' for target, count in each.items())} }}"
        for name, each in figures.items()
    ]
    return "\n".join(
        [
            "# Instructions per request. Written by `make bench-check ARGS=--update`: do not edit.",
            "",
            f"commit = {text(commit)}",
            f"machine = {text(box)}",
            "",
            "[environment]",
            *(f"{name} = {text(value)}" for name, value in about.items()),
            "",
            "[instructions]",
            *rows,
            "",
        ]
    )


def judge(figures: Figures, about: Mapping[str, str], committed: Committed) -> Verdict:
    """Pure: what was counted against what was committed."""
    differing = [name for name in about if committed.environment.get(name) != about[name]]
    failed, said = [], []
    if differing:
        said.append(f"compared over the naive pass-through: {', '.join(differing)} differ from the committed figures'")
    for name, now in figures.items():
        before = committed.figures[name]
        was, is_ = (each[PROXY] / each[NAIVE] if differing else each[PROXY] for each in (before, now))
        change = is_ / was - 1
        form = "{:.3f} times the naive pass-through's" if differing else "{:,.0f}"
        both = f"{form.format(is_)} instructions per request, committed {form.format(was)}"
        sentence = f"{name}: {both} ({change:+.1%}, at most +{TOLERANCE:.0%})"
        if change > TOLERANCE:
            failed.append(sentence)
            continue
        cheaper = "; cheaper by more than the tolerance, commit to it: make bench-check ARGS=--update"
        said.append(sentence + (cheaper if change < -TOLERANCE else ""))
    return Verdict(tuple(failed), tuple(said))


def settled(counts: Sequence[int]) -> bool:
    """Whether the least of these counts may be believed. What a thread waits for another, and how many requests share a
    commit, is a matter of time: that makes counts greater, never smaller."""
    if len(counts) < TIMES.start:
        return False
    least, second = sorted(counts)[:2]
    return len(counts) >= TIMES.stop - 1 or second <= least * (1 + AGREE_WITHIN)


async def _run(workload: Workload, target: Target, requests: int, folder: Path | None) -> int:
    """Instructions of so many requests; without a folder for the dumps they are sent uncounted."""
    assert target.process is not None
    pid, load, counted = target.process.popen.pid, Load(workload, target.port, KEY, CONNECTIONS), 0
    try:
        await load.connect()
        await asyncio.sleep(_AFTERMATH_S)
        if folder:
            callgrind.start(pid)
        await load.run_requests(requests)
        await asyncio.sleep(_AFTERMATH_S)
        if folder:
            counted = callgrind.stop(pid, folder)
    finally:
        load.close()
    return counted


def _count(stage: Stage, name: str, step: Step) -> dict[str, int]:
    """Instructions per request of one target by workload: the least of some counts."""
    step(f"{name}: starting")
    target = stage.start(name)
    found, sent = {}, 0
    try:
        for workload, requests in REQUESTS:
            step(f"{name}, {workload.title}: {WARM_UP} requests to warm up")
            uvloop.run(_run(workload, target, WARM_UP, None))
            step(f"{name}, {workload.title}: {requests} requests are counted, {TIMES.start} times or more")
            counts: list[int] = []
            while not settled(counts):
                counts.append(uvloop.run(_run(workload, target, requests, stage.folder)))
            found[workload.name] = min(counts) // requests
            sent += WARM_UP + len(counts) * requests
        if target.ledger:
            books.check(target.ledger, sent, COST_NUSD)
    except (WrongAnswer, OSError) as wrong:
        log = f"\n{target.process.tail()}" if target.process else ""
        raise WrongAnswer(f"{name}: {wrong}{log}") from None
    finally:
        target.stop(within_s=20.0)
    return found


def _steady(folder: Path) -> dict[str, str]:
    """An environment in which Python counts the same twice: text hashes alike, and threads do not take the interpreter
    from each other more often because everything is some 50 times slower (the interval is 5 ms of the clock)."""
    (folder / "sitecustomize.py").write_text("import sys\n\nsys.setswitchinterval(0.25)\n")
    paths = (str(folder), os.environ.get("PYTHONPATH", ""))
    return {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def count() -> Figures:
    available = os.sched_getaffinity(0)
    cores = Cores.of(available)
    folder = Path(tempfile.mkdtemp(prefix="oxyy-bench-")).resolve()
    upstream = None
    try:
        under = callgrind.command(folder)
        os.sched_setaffinity(0, {cores.load})
        port = free_port()
        command = [sys.executable, "-m", "tests.benchmarks.upstream", str(port)]
        upstream = Pinned.spawn("upstream", command, cores.upstream, folder)
        upstream.until_ready(port, None)
        stage = Stage(folder, port, cores.target, under, _steady(folder), _PATIENCE_S)
        names = (NAIVE, PROXY)
        with Progress(len(names) * (1 + len(REQUESTS) * 2)) as step:
            counted = {name: _count(stage, name, step) for name in names}
    finally:
        if upstream:
            upstream.stop(1.0)
        os.sched_setaffinity(0, available)
        shutil.rmtree(folder, ignore_errors=True)
    return {workload.name: {name: counted[name][workload.name] for name in names} for workload, _ in REQUESTS}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.instructions",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--update", action="store_true", help=f"write what is counted to {FILE}")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        committed = None if options.update else read(FILE)
        figures = count()
    except (books.BooksDoNotMatch, CouldNotCount, CouldNotStart, WrongAnswer) as refused:
        print(f"no figures: {refused}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if committed is None:
        FILE.write_text(as_toml(figures, environment(), machine.commit(), machine.cpu_model()))
        print(FILE.read_text(), end="")
        return 0
    verdict = judge(figures, environment(), committed)
    print("\n".join(verdict.said))
    for sentence in verdict.failed:
        print(f"dearer: {sentence}", file=sys.stderr)
    return 1 if verdict.failed else 0


if __name__ == "__main__":
    sys.exit(main())
