"""The file that says what a full run found. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.benchmarks.report import MB, Results, checks
from tests.benchmarks.rounds import Phase
from tests.benchmarks.stats import Spread
from tests.benchmarks.targets import DIRECT, PROXY
from tests.benchmarks.workloads import WORKLOADS, sizes

FILE = Path(__file__).parents[1] / "evidence" / "bench.toml"


def text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # a JSON string is a basic string of TOML


def as_toml(results: Results, about: Mapping[str, str], rounds: int, date: str) -> str:
    """The file's text. Figures of rounds are [median, least, greatest]."""
    machine = {name.replace(" ", "_"): value for name, value in about.items()}
    settled = results.rounds.settled
    lines = [
        "# What `make bench` found. Written by it: do not edit. In brackets: median, least, greatest of rounds.",
        "",
        f"commit = {text(machine.pop('commit', 'unknown'))}",
        f"date = {text(date)}",
        f"rounds = {rounds}",
        f"left_out = {json.dumps(results.notes, ensure_ascii=False)}",
        f"settled_requests = {settled.settled if settled else 0}",
        f"settled_nusd = {settled.cost_nusd if settled else 0}",
        "",
        "[machine]",
        *(f"{name} = {text(value)}" for name, value in machine.items()),
        *_targets(results),
        *_phases(results),
        *_growth(results),
        *_footprint(results),
    ]
    return "\n".join(lines) + "\n"


def _targets(results: Results) -> Iterator[str]:
    for check in checks(results):
        yield from ("", "[[target]]", f"name = {text(check.title)}")
        yield f"wanted = {text(f'<= {check.limit:g}{check.unit}')}"
        yield f"seen = {check.value:.3f}"
        yield f"met = {str(check.met).lower()}"


def _phases(results: Results) -> Iterator[str]:
    for workload in (*WORKLOADS, *sizes()):
        for connections, _ in workload.seconds:
            for (name, over, target), rounds in results.rounds.phases.items():
                if (name, over) != (workload.name, connections):
                    continue
                yield from ("", "[[phase]]", f"workload = {text(workload.title)}", f"connections = {connections}")
                yield f"target = {text(target)}"
                yield from _figures(rounds, target != DIRECT)
                ratio = results.cpu_ratio(workload, connections)
                if target == PROXY and ratio:
                    yield f"cpu_over_naive = {_spread(ratio, 3)}"
                for what, key in (("first_byte_s", "first_byte"), ("total_s", "last_byte")):
                    for q in (0.5, 0.99):
                        added = results.added_ms(workload, connections, target, what, q)
                        if added is not None:
                            prefix = "" if target == DIRECT else "added_"
                            yield f"{prefix}{key}_p{q * 100:.0f}_ms = {added:.3f}"


def _figures(rounds: Sequence[Phase], uses_cpu: bool) -> Iterator[str]:
    if uses_cpu:
        yield f"cpu_us = {_spread(Spread.of([each.cpu_us for each in rounds]), 1)}"
    yield f"requests_per_s = {_spread(Spread.of([each.requests_per_s for each in rounds]), 1)}"


def _growth(results: Results) -> Iterator[str]:
    for rows, rounds in results.growth.items():
        yield from ("", "[[growth]]", f"rows = {rows}", *_figures(rounds, True))
        if ratio := results.growth_ratio(rows):
            yield f"cpu_over_empty = {_spread(ratio, 3)}"


def _footprint(results: Results) -> Iterator[str]:
    for target, memory in results.memory.items():
        yield from ("", "[[memory]]", f"target = {text(target)}", f"idle_mb = {memory.idle_bytes / MB:.1f}")
        yield f"open_streams_mb = {_table((str(n), f'{b / MB:.1f}') for n, b in memory.streams_bytes.items())}"
    if results.ready_s:
        yield from ("", "[ready_s]", *(f"{target} = {seconds:.3f}" for target, seconds in results.ready_s.items()))


def _table(pairs: Iterable[tuple[str, str]]) -> str:
    return f"{{ {', '.join(f'{name} = {value}' for name, value in pairs)} }}"


def _spread(spread: Spread, digits: int) -> str:
    return f"[{', '.join(f'{each:.{digits}f}' for each in (spread.median, spread.low, spread.high))}]"
