"""From measurements to the table, the targets and the JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

from tests.benchmarks.footprint import Memory
from tests.benchmarks.rounds import Phase, Rounds
from tests.benchmarks.stats import Spread, added, quantile, ratios
from tests.benchmarks.targets import DIRECT, NAIVE, PROXY, TARGETS
from tests.benchmarks.workloads import BURST, JSON, PACED, WORKLOADS, Workload, sizes

NONE = "–"
MB = 1_000_000
Row = tuple[str, ...]

CPU_LIMITS = ((JSON, "JSON request", 0.90), (BURST, "stream at once", 0.95), (PACED, "paced stream", 0.75))
STREAM_LIMITS_MB = {1000: 150, 5000: 500}


@dataclass(slots=True)
class Results:
    """Everything one run measured."""

    rounds: Rounds
    memory: dict[str, Memory] = field(default_factory=dict)
    ready_s: dict[str, float] = field(default_factory=dict)
    growth: dict[int, list[Phase]] = field(default_factory=dict)
    """The proxy by the rows of its ledger, JSON on 32 connections."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""

    def of(self, workload: Workload, connections: int, target: str) -> list[Phase]:
        return self.rounds.phases.get((workload.name, connections, target), [])

    def cpu_ratio(self, workload: Workload, connections: int) -> Spread | None:
        """The proxy's CPU per request over the naive pass-through's."""
        ours, theirs = self.of(workload, connections, PROXY), self.of(workload, connections, NAIVE)
        return ratios([each.cpu_us for each in ours], [each.cpu_us for each in theirs]) if ours and theirs else None

    def growth_ratio(self, rows: int) -> Spread | None:
        """CPU per request on a ledger of so many rows over that on an empty one."""
        grown, empty = self.growth.get(rows), self.growth.get(0)
        return ratios([each.cpu_us for each in grown], [each.cpu_us for each in empty]) if grown and empty else None

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
    seen |= {PROXY} if results.growth else set()
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
    for workload in sizes():
        for connections, _ in workload.seconds:
            if any(results.of(workload, connections, target) for target in TARGETS):
                table += _phase_rows(results, workload, connections)[:1]
    return table + _growth_rows(results) + _footprint_rows(results)


def _phase_rows(results: Results, workload: Workload, connections: int) -> list[Row]:
    names = columns(results)
    title = f"{workload.title} ×{connections}"
    phases = {name: results.of(workload, connections, name) for name in names}
    ratio = _times(results.cpu_ratio(workload, connections))

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


def _times(spread: Spread | None) -> str:
    return f"{spread.median:.2f}× ({spread.low:.2f}–{spread.high:.2f})" if spread else NONE


def _growth_rows(results: Results) -> list[Row]:
    table: list[Row] = []
    for rows_, rounds in results.growth.items():
        cpu_us = f"{median(each.cpu_us for each in rounds):,.0f}"
        cells = [cpu_us if name == PROXY else NONE for name in columns(results)]
        ratio = f"{_times(results.growth_ratio(rows_))} of empty" if rows_ else ""
        table.append((f"JSON ×32, {rows_:,} rows in the ledger: CPU µs/request", *cells, ratio))
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
    for count in sorted({count for each in results.memory.values() for count in each.streams_bytes}):
        streams = {name: each.streams_bytes[count] / MB for name, each in results.memory.items()}
        line(f"RSS with {count:,} open stream{'s' if count > 1 else ''}, MB", streams, ".0f")
    line("seconds to ready", results.ready_s, ".2f")
    return table


def checks(results: Results) -> list[Check]:
    """A line for each target of the project that this run can judge."""
    found: list[Check] = []
    for workload, each, limit in CPU_LIMITS:
        if ratio := results.cpu_ratio(workload, 32):
            title = f"CPU per {each}, 32 connections, over the naive pass-through"
            found.append(Check(title, ratio.median, limit, "×"))
    if (extra := results.added_ms(JSON, 1, PROXY, "total_s", 0.5)) is not None:
        found.append(Check("added p50, JSON, 1 connection", extra, 1.0, " ms"))
    if PROXY in results.ready_s:
        found.append(Check("ready", results.ready_s[PROXY], 0.5, " s"))
    if memory := results.memory.get(PROXY):
        found.append(Check("RSS idle", memory.idle_bytes / MB, 60, " MB"))
        for count, limit in STREAM_LIMITS_MB.items():
            if count in memory.streams_bytes:
                found.append(Check(f"RSS with {count:,} open streams", memory.streams_bytes[count] / MB, limit, " MB"))
    most = max(results.growth, default=0)
    if ratio := results.growth_ratio(most) if most else None:
        found.append(Check(f"CPU per JSON request with {most:,} rows, over an empty ledger", ratio.median, 1.1, "×"))
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
        "memory": {
            name: {"idle_bytes": each.idle_bytes, "streams_bytes": {str(n): b for n, b in each.streams_bytes.items()}}
            for name, each in results.memory.items()
        },
        "ready_s": results.ready_s,
        "growth": [{"rows": n, "rounds": [_round_json(each) for each in on]} for n, on in results.growth.items()],
        "notes": results.notes,
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
