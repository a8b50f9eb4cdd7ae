"""From measurements to the table, the targets and the JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

from tests.benchmarks.footprint import Memory
from tests.benchmarks.rounds import Phase, Rounds
from tests.benchmarks.stats import Spread, added, quantile, ratios
from tests.benchmarks.targets import DIRECT, NAIVE, PROXY, TARGETS
from tests.benchmarks.workloads import JSON, PACED, WORKLOADS, Workload

NONE = "–"
MB = 1_000_000
Row = tuple[str, ...]


@dataclass(slots=True)
class Results:
    """Everything one run measured."""

    rounds: Rounds
    streams: int
    memory: dict[str, Memory] = field(default_factory=dict)
    ready_s: dict[str, float] = field(default_factory=dict)

    def of(self, workload: Workload, connections: int, target: str) -> list[Phase]:
        return self.rounds.phases.get((workload.name, connections, target), [])

    def cpu_ratio(self, workload: Workload, connections: int) -> Spread | None:
        """The proxy's CPU per request over the naive pass-through's."""
        ours, theirs = self.of(workload, connections, PROXY), self.of(workload, connections, NAIVE)
        return ratios([each.cpu_us for each in ours], [each.cpu_us for each in theirs]) if ours and theirs else None

    def added_ms(self, workload: Workload, connections: int, target: str, what: str, q: float) -> float | None:
        """What `target` adds to a quantile of `first_byte_s` or `total_s`; for `direct` the quantile itself."""
        through, direct = self.of(workload, connections, target), self.of(workload, connections, DIRECT)
        if not through or not direct:
            return None
        samples = [getattr(each, what) for each in through]
        bare = [[0.0] * len(each) for each in samples]
        seconds = added(samples, bare if target == DIRECT else [getattr(each, what) for each in direct], q)
        return None if seconds is None else seconds * 1000


@dataclass(frozen=True, slots=True)
class Check:
    """A target of the project and what was measured."""

    title: str
    value: float
    limit: float
    unit: str

    @property
    def met(self) -> bool:
        return self.value <= self.limit

    def __str__(self) -> str:
        figure = f"{self.value:.1f}" if self.value >= 10 else f"{self.value:.2f}"
        return f"{self.title} {figure}{self.unit} (≤ {self.limit:g}{self.unit}) {'ok' if self.met else 'MISSED'}"


def columns(results: Results) -> list[str]:
    """The targets that were measured, in the order of the table."""
    seen = {target for _, _, target in results.rounds.phases} | set(results.memory) | set(results.ready_s)
    return [target for target in TARGETS if target in seen]


def header(results: Results) -> Row:
    return ("", *columns(results), "proxy ÷ naive")


def rows(results: Results) -> list[Row]:
    """The table without its header."""
    table: list[Row] = []
    for workload in WORKLOADS:
        for connections, _ in sorted(workload.seconds, reverse=True):
            if any(results.of(workload, connections, target) for target in TARGETS):
                table += _phase_rows(results, workload, connections)
    return table + _footprint_rows(results)


def _phase_rows(results: Results, workload: Workload, connections: int) -> list[Row]:
    names = columns(results)
    title = f"{workload.title} ×{connections}"
    phases = {name: results.of(workload, connections, name) for name in names}
    spread = results.cpu_ratio(workload, connections)
    ratio = f"{spread.median:.2f}× ({spread.low:.2f}–{spread.high:.2f})" if spread else NONE

    def medians(figure: str, but: str = "") -> list[str]:
        return [
            f"{median(getattr(each, figure) for each in phases[name]):,.0f}" if phases[name] and name != but else NONE
            for name in names
        ]

    table: list[Row] = [
        (f"{title}: CPU µs/request", *medians("cpu_us", but=DIRECT), ratio),
        (f"{title}: requests/s", *medians("requests_per_s"), ""),
    ]
    whats = [("first_byte_s", "first byte"), ("total_s", "last byte")] if workload.stream else [("total_s", "answer")]
    for what, name in whats:
        pairs = [_added_pair(results, workload, connections, target, what) for target in names]
        table.append((f"{title}: added to {name} p50 / p99, ms", *pairs, ""))
    return table


def _added_pair(results: Results, workload: Workload, connections: int, target: str, what: str) -> str:
    figures = [results.added_ms(workload, connections, target, what, q) for q in (0.5, 0.99)]
    if figures[0] is None:
        return NONE
    if target == DIRECT:
        return "(" + " / ".join(NONE if each is None else f"{each:.2f}" for each in figures) + ")"
    return " / ".join(NONE if each is None else f"{each:+.2f}" for each in figures)


def _footprint_rows(results: Results) -> list[Row]:
    names = columns(results)
    table: list[Row] = []

    def line(title: str, figures: dict[str, float], form: str) -> None:
        if figures:
            table.append((title, *(format(figures[each], form) if each in figures else NONE for each in names), ""))

    line("RSS idle, MB", {name: each.idle_bytes / MB for name, each in results.memory.items()}, ".0f")
    streams = {name: each.streams_bytes / MB for name, each in results.memory.items()}
    line(f"RSS with {results.streams:,} open streams, MB", streams, ".0f")
    line("seconds to ready", results.ready_s, ".2f")
    return table


def checks(results: Results) -> list[Check]:
    """A line for each target of the project that this run can judge."""
    found: list[Check] = []
    if ratio := results.cpu_ratio(JSON, 32):
        found.append(Check("CPU per JSON request, 32 connections, over the naive pass-through", ratio.median, 1.5, "×"))
    if ratio := results.cpu_ratio(PACED, 32):
        title = "CPU per paced stream, 32 connections, over the naive pass-through"
        found.append(Check(title, ratio.median, 1.4, "×"))
    if (extra := results.added_ms(JSON, 1, PROXY, "total_s", 0.5)) is not None:
        found.append(Check("added p50, JSON, 1 connection", extra, 1.5, " ms"))
    if PROXY in results.ready_s:
        found.append(Check("ready", results.ready_s[PROXY], 1.0, " s"))
    if memory := results.memory.get(PROXY):
        found.append(Check("RSS idle", memory.idle_bytes / MB, 90, " MB"))
        found.append(Check(f"RSS with {results.streams:,} open streams", memory.streams_bytes / MB, 250, " MB"))
    return found


def markdown(head: Row, body: Sequence[Row]) -> str:
    """A Markdown table, figures aligned to the right, padded so that it reads well as plain text too."""
    widths = [max(len(row[index]) for row in [head, *body]) for index in range(len(head))]

    def line(row: Row) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(head), rule, *map(line, body)])


def as_json(results: Results, machine: dict[str, str]) -> dict[str, object]:
    """All figures, per round. Times in the units of their names."""
    phases = [
        {
            "workload": workload,
            "connections": connections,
            "target": target,
            "rounds": [_round_json(each) for each in rounds],
        }
        for (workload, connections, target), rounds in results.rounds.phases.items()
    ]
    return {
        "machine": machine,
        "phases": phases,
        "memory": {name: asdict(each) for name, each in results.memory.items()},
        "ready_s": results.ready_s,
        "ledger": asdict(results.rounds.settled) if results.rounds.settled else None,
        "checks": [{**asdict(each), "met": each.met} for each in checks(results)],
    }


def _round_json(phase: Phase) -> dict[str, float]:
    return {
        "requests": phase.requests,
        "requests_per_s": round(phase.requests_per_s, 1),
        "cpu_us": round(phase.cpu_us, 1),
        "first_byte_p50_ms": round(quantile(phase.first_byte_s, 0.5) * 1000, 3),
        "first_byte_p99_ms": round(quantile(phase.first_byte_s, 0.99) * 1000, 3),
        "total_p50_ms": round(quantile(phase.total_s, 0.5) * 1000, 3),
        "total_p99_ms": round(quantile(phase.total_s, 0.99) * 1000, 3),
    }
