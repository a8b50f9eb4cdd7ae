"""`python -m tests.benchmarks`: measures and prints the table. See `--help`."""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from tests.benchmarks import footprint, machine, report
from tests.benchmarks.books import BooksDoNotMatch
from tests.benchmarks.load import WrongAnswer
from tests.benchmarks.processes import Cores, CouldNotStart, Pinned, free_port
from tests.benchmarks.progress import Progress
from tests.benchmarks.rounds import FULL, QUICK, Plan, Rounds, measure_rounds
from tests.benchmarks.targets import DIRECT, KEY, NGINX, TARGETS, Stage, nginx
from tests.benchmarks.workloads import COST_NUSD, EVENT_GAP_S, EVENTS, WORKLOADS

PARTS = (*(workload.name for workload in WORKLOADS), "memory", "ready")
_FILES = 8192


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measures the proxy with everything on against a naive pass-through, nginx and no proxy at all.",
    )
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it runs, not how fast")
    parser.add_argument("--rounds", type=_positive, help=f"rounds per workload (default {FULL.rounds})")
    parser.add_argument("--only", type=_some_of(PARTS), default=PARTS, help=f"parts to run: {','.join(PARTS)}")
    others = TARGETS[1:]
    parser.add_argument("--targets", type=_some_of(others), default=others, help=f"besides direct: {','.join(others)}")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _some_of(names: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def convert(text: str) -> tuple[str, ...]:
        asked = text.split(",")
        if unknown := set(asked) - set(names):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))} (choose from {', '.join(names)})")
        return tuple(name for name in names if name in asked)

    return convert


def plan_of(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else FULL
    return replace(plan, rounds=options.rounds) if options.rounds else plan


def measure(options: argparse.Namespace, plan: Plan, stage: Stage) -> report.Results:
    """Runs the parts that were asked for."""
    names = [name for name in options.targets if name != NGINX or nginx()]
    workloads = [workload for workload in WORKLOADS if workload.name in options.only]
    steps = sum(len(workload.seconds) for workload in workloads) * len(plan.numbers)
    steps += sum(len(names) for part in ("memory", "ready") if part in options.only)
    with Progress(steps) as step:
        rounds = measure_rounds(stage, workloads, [DIRECT, *names], plan, KEY, step) if workloads else Rounds()
        results = report.Results(rounds, plan.streams)
        for name in names:
            if "memory" in options.only:
                step(f"memory of {name}: idle, then {plan.streams:,} open streams")
                results.memory[name] = footprint.measure_memory(stage, name, plan, KEY)
            if "ready" in options.only:
                step(f"time to ready of {name}")
                results.ready_s[name] = footprint.measure_ready(stage, name, plan)
    return results


def print_report(results: report.Results, about: dict[str, str], plan: Plan) -> None:
    head, body = report.header(results), report.rows(results)
    for name, value in about.items():
        print(f"- {name}: {value}")
    note = f"- medians of {plan.rounds} interleaved rounds; ratios within a round (least–greatest)"
    print(note + ("; a quick run, too short for figures to publish" if plan.phase_scale < 1 else ""))
    if DIRECT in head:
        print("- added: latency minus direct's of the same round; direct's own in parentheses")
    print(
        f"- ×32: 32 keep-alive connections, each sends when it has its answer; paced stream: {EVENTS} events "
        f"{EVENT_GAP_S * 1000:.0f} ms apart; stream at once: the same events in one write"
    )
    if settled := results.rounds.settled:
        usd = settled.cost_nusd / 1e9
        print(f"- books: {settled.settled:,} requests sent and settled at {COST_NUSD:,} nano-USD each, {usd:,.6f} USD")
    print()
    if sys.stdout.isatty():
        table = Table(head[0])
        for name in head[1:]:
            table.add_column(name, justify="right")
        for row in body:
            table.add_row(*row)
        Console().print(table)
    else:
        print(report.markdown(head, body))
    print()
    for check in report.checks(results):
        print(f"- {check}")


def raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run(options: argparse.Namespace) -> None:
    plan, available = plan_of(options), os.sched_getaffinity(0)
    cores = Cores.of(available)
    raise_file_limit()
    # /tmp is often memory; the ledger shall be on a disk.
    disk = "/var/tmp" if os.access("/var/tmp", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="oxyy-bench-", dir=disk)).resolve()
    upstream = None
    try:
        os.sched_setaffinity(0, {cores.load})
        port = free_port()
        upstream = Pinned.spawn(
            "upstream", [sys.executable, "-m", "tests.benchmarks.upstream", str(port)], cores.upstream, folder
        )
        upstream.until_ready(port, None)
        results = measure(options, plan, Stage(folder, port, cores.target))
        about = machine.describe(cores, len(available), folder)
    finally:
        if upstream:
            upstream.stop(1.0)
        shutil.rmtree(folder, ignore_errors=True)
    if options.format == "json":
        print(orjson.dumps(report.as_json(results, about), option=orjson.OPT_INDENT_2).decode())
    else:
        print_report(results, about, plan)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run(options)
    except (BooksDoNotMatch, CouldNotStart, WrongAnswer) as refused:
        print(f"no figures: {refused}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
