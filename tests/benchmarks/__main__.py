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
from datetime import UTC, datetime
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from tests.benchmarks import evidence, footprint, growth, machine, report
from tests.benchmarks.books import BooksDoNotMatch
from tests.benchmarks.load import WrongAnswer
from tests.benchmarks.processes import Cores, CouldNotStart, Pinned, free_port
from tests.benchmarks.profile import CouldNotProfile, record
from tests.benchmarks.progress import Progress
from tests.benchmarks.rounds import FULL, QUICK, Plan, Rounds, measure_rounds
from tests.benchmarks.targets import DIRECT, KEY, NAIVE, NGINX, PROXY, TARGETS, Stage, nginx
from tests.benchmarks.workloads import COST_NUSD, EVENT_GAP_S, EVENTS, PACED, WORKLOADS, Workload, sizes

QUICK_PARTS = (*(workload.name for workload in WORKLOADS), "memory", "ready")
PARTS = (*QUICK_PARTS, "sizes", "growth")
_FILES = max(map(footprint.descriptors, FULL.streams))
_SIZES_ROUNDS = 3
_PROFILED_S = {False: 10, True: 1}
_EXAMPLES = """\
examples:
  python -m tests.benchmarks                              everything; writes tests/evidence/bench.toml
  python -m tests.benchmarks --quick                      does it run?
  python -m tests.benchmarks --only json --rounds 3
  python -m tests.benchmarks --only growth                ledgers of 1 and 10 million rows
  python -m tests.benchmarks --profile burst.svg --only burst
"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measures the proxy with everything on against a naive pass-through, nginx and no proxy at all.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it runs, not how fast")
    parser.add_argument("--rounds", type=_positive, help=f"rounds per workload (default {FULL.rounds})")
    parser.add_argument("--only", type=_some_of(PARTS), help=f"parts to run: {','.join(PARTS)}")
    others = TARGETS[1:]
    parser.add_argument("--targets", type=_some_of(others), default=others, help=f"besides direct: {','.join(others)}")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--write", type=Path, help=f"file for the figures (default, for a full run: {evidence.FILE})")
    parser.add_argument("--profile", type=Path, metavar="SVG", help="instead: a flame graph of the proxy under load")
    options = parser.parse_args(arguments)
    options.workload = _workload(parser, options) if options.profile else None
    full = options.only is None and options.targets == others and not options.quick
    if options.write is None and full and plan_of(options).rounds >= FULL.rounds:
        options.write = evidence.FILE
    options.only = options.only or (QUICK_PARTS if options.quick else PARTS)
    return options


def _workload(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Workload:
    chosen = [each for each in WORKLOADS if each.name in (options.only or ("json",))]
    if len(chosen) != 1 or len(options.only or chosen) != 1:
        parser.error(f"--profile is of one workload: --only {' or '.join(each.name for each in WORKLOADS)}")
    return chosen[0]


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
    compared = [name for name in names if name in (NAIVE, PROXY)]
    workloads = [workload for workload in WORKLOADS if workload.name in options.only]
    steps = sum(len(workload.seconds) for workload in workloads) * len(plan.numbers)
    steps += sum(len(names) for part in ("memory", "ready") if part in options.only)
    few = replace(plan, rounds=min(plan.rounds, _SIZES_ROUNDS))
    of_sizes = sizes() if "sizes" in options.only else ()
    steps += len(of_sizes) * len(few.numbers)
    rows, left_out = growth.that_fit(stage.folder, plan.ledger_rows if "growth" in options.only else ())
    steps += growth.steps(rows, plan) if rows else 0
    streams, too_many = footprint.that_fit(plan.streams, raise_file_limit())
    plan = replace(plan, streams=tuple(streams))
    with Progress(steps) as step:
        rounds = measure_rounds(stage, workloads, [DIRECT, *names], plan, KEY, step) if workloads else Rounds()
        results = report.Results(rounds, notes=[*left_out, *(too_many if "memory" in options.only else [])])
        for name in names:
            if "memory" in options.only:
                step(f"memory of {name}: idle, then with open streams")
                results.memory[name] = footprint.measure_memory(stage, name, plan, KEY)
            if "ready" in options.only:
                step(f"time to ready of {name}")
                results.ready_s[name] = footprint.measure_ready(stage, name, plan)
        if of_sizes:
            results.rounds.add(measure_rounds(stage, of_sizes, compared, few, KEY, step))
        if rows:
            results.growth = growth.measure(stage, rows, plan, KEY, step)
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
        f"- ×32: 32 keep-alive connections, each sends when it has its answer, a paced one up to "
        f"{PACED.pause_s * 1000:.0f} ms later; paced stream: {EVENTS} events "
        f"{EVENT_GAP_S * 1000:.0f} ms apart; stream at once: the same events in one write"
    )
    if settled := results.rounds.settled:
        usd = settled.cost_nusd / 1e9
        print(f"- books: {settled.settled:,} requests sent and settled at {COST_NUSD:,} nano-USD each, {usd:,.6f} USD")
    for left_out in results.notes:
        print(f"- {left_out}")
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


def raise_file_limit() -> int:
    """The descriptors that this process and those it starts may have from now on."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


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
        stage = Stage(folder, port, cores.target)
        if options.profile:
            record(stage, options.workload, options.profile.resolve(), KEY, _PROFILED_S[options.quick])
            print(f"{options.workload.title}: {options.profile}")
            return
        results = measure(options, plan, stage)
        about = machine.describe(cores, len(available), folder)
    finally:
        if upstream:
            upstream.stop(1.0)
        os.sched_setaffinity(0, available)
        shutil.rmtree(folder, ignore_errors=True)
    if options.write:
        options.write.parent.mkdir(exist_ok=True)
        today = datetime.now(UTC).strftime("%Y-%m-%d")
        options.write.write_text(evidence.as_toml(results, about, plan.rounds, today))
    if options.format == "json":
        print(orjson.dumps(report.as_json(results, about), option=orjson.OPT_INDENT_2).decode())
    else:
        print_report(results, about, plan)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run(options)
    except (BooksDoNotMatch, CouldNotProfile, CouldNotStart, WrongAnswer) as refused:
        print(f"no figures: {refused}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
