"""Every metric.

Money and tokens are read from the ledger's totals when Prometheus asks, so that they equal SQL and survive restarts.
What every request changes is kept in plain numbers: prometheus_client's own take a lock and a microsecond each time.
Label values come from policy files only, never from a request.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain
from typing import cast

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from oxyy_proxy import __version__
from oxyy_proxy.observe.log import Ended
from oxyy_proxy.rules.figures import Snapshot
from oxyy_proxy.rules.types import NUSD_PER_USD, Policy

_DURATION_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_OVERHEAD_BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)
_COMMIT_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 1.0, 10.0)


class _Counts:
    """A counter: how often, by label values. Changed on the loop alone, so without a lock. Setting an item of
    collections' `Counter` costs three times as much."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self.of: defaultdict[tuple[str | int, ...], int] = defaultdict(int)

    def taken(self) -> Callable[[], Metric]:
        """What makes the metric of this instant, on any thread."""
        counts = self.of.copy()

        def made() -> Metric:
            metric = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
            for values, count in counts.items():
                metric.add_metric([str(value) for value in values], count)
            return metric

        return made


class _Histogram:
    """How many spans fell into each bucket, one for +Inf and their sum, by label values. Each is changed on one thread
    alone."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], buckets_s: Sequence[float]) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._buckets_s = buckets_s
        self._of: dict[tuple[str, ...], list[float]] = {}

    def of(self, *values: str) -> list[float]:
        """The numbers of these label values, which there are from then on."""
        numbers = self._of.get(values)
        if numbers is None:
            numbers = self._of[values] = [0.0] * (len(self._buckets_s) + 2)
        return numbers

    def taken(self) -> Callable[[], Metric]:
        """What makes the metric of this instant, on any thread."""
        series = [(values, numbers.copy()) for values, numbers in self._of.items()]
        bounds = [*(str(float(bound)) for bound in self._buckets_s), "+Inf"]

        def made() -> Metric:
            metric = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
            for values, (*counts, total_s) in series:
                metric.add_metric(values, list(zip(bounds, accumulate(counts), strict=True)), total_s)
            return metric

        return made


def _observe(numbers: list[float], buckets_s: tuple[float, ...], span_s: float) -> None:
    """Count a span among the numbers of a histogram."""
    numbers[bisect_left(buckets_s, span_s)] += 1
    numbers[-1] += span_s


class Metrics:
    """The process's own metrics, and the rendering of all of them."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, that nobody reads
        self._process = ProcessCollector(registry=None)
        self._requests = _Counts("oxyy_requests", "Requests answered.", ["team", "model", "endpoint", "status"])
        self._refusals = _Counts("oxyy_refusals", "Requests refused by us.", ["team", "code"])
        self._duration = _Histogram(
            "oxyy_request_duration_seconds",
            "From the head of a request to the end of its answer.",
            ["endpoint", "model"],
            _DURATION_BUCKETS_S,
        )
        self._first_byte = _Histogram(
            "oxyy_time_to_first_byte_seconds",
            "From the head of a request to the first byte of its answer.",
            ["endpoint", "model"],
            _DURATION_BUCKETS_S,
        )
        self._overhead = _Histogram(
            "oxyy_overhead_seconds",
            "Duration minus the time spent waiting on the upstream.",
            ["endpoint"],
            _OVERHEAD_BUCKETS_S,
        )
        self._spans: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
        """The numbers of a duration and of an overhead, by endpoint and model."""
        self._attempts = _Counts("oxyy_upstream_attempts", "Calls to the upstream.", ["model", "outcome"])
        self._failovers = _Counts(
            "oxyy_failovers", "Attempts that followed a failed one.", ["from_model", "to_model", "reason"]
        )
        self.in_flight: defaultdict[str, int] = defaultdict(int)
        """Requests being served, by endpoint."""
        self._commit = _Histogram("oxyy_ledger_commit_seconds", "One ledger transaction.", [], _COMMIT_BUCKETS_S)
        self._commits = self._commit.of()
        self.registry = registry = CollectorRegistry()
        self._models: set[str] = set()
        self._breaker_state = Gauge(
            "oxyy_breaker_state", "0 closed, 1 half-open, 2 open.", ["model"], registry=registry
        )
        self.reload_failed = Gauge(
            "oxyy_policy_reload_failed", "1 while the policy folder on disk is invalid.", registry=registry
        )
        self._policy_info = Gauge("oxyy_policy_info", "The policies in force.", ["version"], registry=registry)
        Gauge("oxyy_build_info", "This program.", ["version"], registry=registry).labels(__version__).set(1)

    def policy_loaded(self, policy: Policy) -> None:
        self._policy_info.clear()
        self._policy_info.labels(policy.version).set(1)
        for gone in self._models - policy.models.keys():
            self._breaker_state.remove(gone)
        for new in policy.models.keys() - self._models:
            self._breaker_state.labels(new).set(0)
        self._models = set(policy.models)

    def breaker(self, model: str, state: str) -> None:
        """The breaker of a model is now `state`, of `rules.breaker`."""
        self._breaker_state.labels(model).set({"half_open": 1, "open": 2}.get(state, 0))

    def attempt(self, model: str, outcome: str) -> None:
        self._attempts.of[model, outcome] += 1

    def failover(self, from_model: str, to_model: str, reason: str) -> None:
        self._failovers.of[from_model, to_model, reason] += 1

    def commit_seconds(self, span_s: float) -> None:
        """Called on the ledger's thread."""
        _observe(self._commits, _COMMIT_BUCKETS_S, span_s)

    def finished(self, end: Ended) -> None:
        model, endpoint = end.model_served or end.model_label, end.endpoint
        self._requests.of[end.team, model, endpoint, end.status] += 1
        if end.error_code is not None and end.attempts == 0:
            self._refusals.of[end.team, end.error_code] += 1
            return
        spans = self._spans.get((endpoint, model))
        if spans is None:
            spans = self._spans[endpoint, model] = self._duration.of(endpoint, model), self._overhead.of(endpoint)
        durations, overheads = spans
        duration_s, overhead_s = end.duration_s, end.duration_s - end.upstream_s
        _observe(durations, _DURATION_BUCKETS_S, duration_s)
        _observe(overheads, _OVERHEAD_BUCKETS_S, overhead_s if overhead_s > 0.0 else 0.0)
        if end.first_byte_s is not None:
            _observe(self._first_byte.of(endpoint, model), _DURATION_BUCKETS_S, end.first_byte_s)

    def rendering(self, snapshot: Snapshot) -> Callable[[], bytes]:
        """What makes Prometheus' text format of the figures of this instant. Slow with many series: call that off the
        loop, and this on it."""
        requests = (self._requests, self._refusals, self._duration, self._first_byte, self._overhead)
        before = [counted.taken() for counted in (*requests, self._attempts, self._failovers)]
        commit = self._commit.taken()
        in_flight = GaugeMetricFamily("oxyy_in_flight", "Requests being served.", labels=["endpoint"])
        for endpoint, count in self.in_flight.items():
            in_flight.add_metric([endpoint], count)

        def rendered() -> bytes:
            own = chain((made() for made in before), [in_flight, commit()])
            together = chain(self._process.collect(), own, self.registry.collect(), _families(snapshot))
            return generate_latest(cast(CollectorRegistry, _Together(together)))

        return rendered


class _Together:
    """What `generate_latest` needs of a registry."""

    def __init__(self, metrics: Iterator[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics


def _families(snapshot: Snapshot) -> Iterator[Metric]:
    """The ledger's figures as metrics; money in USD, to the nano-dollar as far as a float carries (9 million USD)."""
    cost = CounterMetricFamily("oxyy_cost_usd", "Settled cost.", labels=["team", "cost_center", "model", "endpoint"])
    tokens = CounterMetricFamily(
        "oxyy_tokens",
        "Settled tokens; `cached_input` is part of `input`.",
        labels=["team", "model", "endpoint", "kind"],
    )
    units = CounterMetricFamily(
        "oxyy_units", "Settled units that are no tokens.", labels=["team", "model", "endpoint", "unit"]
    )
    estimated = CounterMetricFamily(
        "oxyy_usage_estimated", "Settled requests whose usage the upstream did not say.", labels=["team", "model"]
    )
    # A team whose cost centre has changed has totals under both: where that is no label, they are one series.
    by_kind: Tally[tuple[str, str, str, str]] = Tally()
    by_unit: Tally[tuple[str, str, str, str]] = Tally()
    estimates: Tally[tuple[str, str]] = Tally()
    for (team, cost_center, model, endpoint), total in snapshot.totals.items():
        cost.add_metric([team, cost_center, model, endpoint], total.cost_nusd / NUSD_PER_USD)
        by_kind[team, model, endpoint, "input"] += total.input_tokens
        by_kind[team, model, endpoint, "cached_input"] += total.cached_input_tokens
        by_kind[team, model, endpoint, "output"] += total.output_tokens
        by_unit[team, model, endpoint, "images"] += total.images
        by_unit[team, model, endpoint, "video_seconds"] += total.video_ms
        by_unit[team, model, endpoint, "audio_seconds"] += total.audio_ms
        by_unit[team, model, endpoint, "characters"] += total.characters
        estimates[team, model] += total.estimated
    for labels, count in by_kind.items():
        tokens.add_metric(labels, count)
    for labels, count in by_unit.items():
        if count:  # a model of one kind has no series of the others
            units.add_metric(labels, count / 1000 if labels[-1].endswith("_seconds") else count)
    for of_model, count in estimates.items():
        estimated.add_metric(of_model, count)
    yield from (cost, tokens, units, estimated)
    unresolved = sum(total.unresolved for total in snapshot.totals.values())
    yield GaugeMetricFamily(
        "oxyy_ledger_unresolved", "Requests that may have cost money and whose cost is not known.", unresolved
    )
    yield from _limit_families(snapshot)


def _limit_families(snapshot: Snapshot) -> Iterator[Metric]:
    labels = ["team", "meter", "per", "limit"]
    cap = GaugeMetricFamily("oxyy_limit_cap", "What a limit allows; USD or a count.", labels=labels)
    spent = GaugeMetricFamily("oxyy_limit_spent", "Spent in the running window.", labels=labels)
    held = GaugeMetricFamily("oxyy_limit_held", "Held in the running window.", labels=labels)
    resets = GaugeMetricFamily("oxyy_limit_resets_at_seconds", "When the window ends.", labels=labels)
    for standing in snapshot.standings:
        limit = standing.limit
        values = [limit.team or "", limit.meter, limit.per or "", limit.id]
        unit = NUSD_PER_USD if limit.meter == "usd" else 1
        cap.add_metric(values, limit.cap / unit)
        spent.add_metric(values, standing.spent / unit)
        held.add_metric(values, standing.held / unit)
        if limit.per is not None:
            resets.add_metric(values, standing.window.end)
    yield from (cap, spent, held, resets)
