"""Every metric and every log event.

Money and tokens are read from the ledger's totals when Prometheus asks, so that they equal SQL and survive restarts.
Label values come from policy files only, never from a request. Prompts, answers and keys are in neither.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import traceback
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from itertools import chain
from typing import BinaryIO, Literal, NamedTuple, cast

import orjson
import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from oxyy_proxy import __version__
from oxyy_proxy.rules.figures import Snapshot
from oxyy_proxy.rules.price import usd
from oxyy_proxy.rules.types import NUSD_PER_USD, Policy, Usage

FLUSH_AFTER_S = 0.1
"""A log line may be written this much late; the ledger is the record."""

_DURATION_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_OVERHEAD_BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1)
_COMMIT_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 1, 10)


class Finished(NamedTuple):
    """One request, ended: what its log line and its metrics say. Spans in seconds; `upstream_s` is the part of
    `duration_s` that was spent waiting on the upstream. Empty strings where the request did not come that far."""

    request_id: str
    client_request_id: str
    team: str
    key_id: str
    endpoint: str
    model_requested: str
    model_label: str
    """The model that answered, or would have been asked first; from the policy, so fit for a label."""
    status: int
    error_code: str | None
    refused: bool
    stream: bool
    attempts: int
    usage: Usage | None
    cost_nusd: int
    duration_s: float
    first_byte_s: float | None
    upstream_s: float


class Metrics:
    """The process's own metrics, and the rendering of all of them."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, that nobody reads
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "oxyy_requests", "Requests answered.", ["team", "model", "endpoint", "status"], registry=registry
        )
        self._refusals = Counter("oxyy_refusals", "Requests refused by us.", ["team", "code"], registry=registry)
        self._duration = Histogram(
            "oxyy_request_duration_seconds",
            "From the head of a request to the end of its answer.",
            ["endpoint", "model"],
            buckets=_DURATION_BUCKETS_S,
            registry=registry,
        )
        self._first_byte = Histogram(
            "oxyy_time_to_first_byte_seconds",
            "From the head of a request to the first byte of its answer.",
            ["endpoint", "model"],
            buckets=_DURATION_BUCKETS_S,
            registry=registry,
        )
        self._overhead = Histogram(
            "oxyy_overhead_seconds",
            "Duration minus the time spent waiting on the upstream.",
            ["endpoint"],
            buckets=_OVERHEAD_BUCKETS_S,
            registry=registry,
        )
        self._attempts = Counter(
            "oxyy_upstream_attempts", "Calls to the upstream.", ["model", "outcome"], registry=registry
        )
        self._failovers = Counter(
            "oxyy_failovers",
            "Attempts that followed a failed one.",
            ["from_model", "to_model", "reason"],
            registry=registry,
        )
        self._in_flight = Gauge("oxyy_in_flight", "Requests being served.", ["endpoint"], registry=registry)
        self._commit = Histogram(
            "oxyy_ledger_commit_seconds",
            "One ledger transaction.",
            buckets=_COMMIT_BUCKETS_S,
            registry=registry,
        )
        self._models: set[str] = set()
        self._breaker_state = Gauge(
            "oxyy_breaker_state", "0 closed, 1 half-open, 2 open.", ["model"], registry=registry
        )
        self.reload_failed = Gauge(
            "oxyy_policy_reload_failed", "1 while the policy folder on disk is invalid.", registry=registry
        )
        self._policy_info = Gauge("oxyy_policy_info", "The policies in force.", ["version"], registry=registry)
        Gauge("oxyy_build_info", "This program.", ["version"], registry=registry).labels(__version__).set(1)
        self.commit_seconds = self._commit.observe
        self._keep_children()

    def _keep_children(self) -> None:
        """A child is looked up once per combination of labels: 1.1 µs instead of 3.9."""
        self._request_child = cache(self._requests.labels)
        self._duration_child = cache(self._duration.labels)
        self._first_byte_child = cache(self._first_byte.labels)
        self._overhead_child = cache(self._overhead.labels)
        self._attempt_child = cache(self._attempts.labels)
        self.in_flight: Callable[[str], Gauge] = cache(self._in_flight.labels)

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
        self._attempt_child(model, outcome).inc()

    def failover(self, from_model: str, to_model: str, reason: str) -> None:
        self._failovers.labels(from_model, to_model, reason).inc()

    def finished(self, end: Finished) -> None:
        self._request_child(end.team, end.model_label, end.endpoint, str(end.status)).inc()
        if end.refused:
            self._refusals.labels(end.team, end.error_code).inc()
            return
        self._duration_child(end.endpoint, end.model_label).observe(end.duration_s)
        self._overhead_child(end.endpoint).observe(max(0.0, end.duration_s - end.upstream_s))
        if end.first_byte_s is not None:
            self._first_byte_child(end.endpoint, end.model_label).observe(end.first_byte_s)

    def render(self, snapshot: Snapshot) -> bytes:
        """Prometheus' text format. Slow with many children: call it off the loop."""
        return generate_latest(cast(CollectorRegistry, _Together(self.registry.collect, _families(snapshot))))


class _Together:
    """What `generate_latest` needs of a registry: the process's metrics, then the ledger's."""

    def __init__(self, collect: Callable[[], Iterable[Metric]], families: Iterable[Metric]) -> None:
        self._collect = collect
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return chain(self._collect(), self._families)


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


class Log:
    """JSON lines on a byte stream, or coloured ones for people. `event` names what happened."""

    def __init__(self, style: Literal["json", "console"] = "json", out: BinaryIO | None = None) -> None:
        self._lines = _Lines(out or sys.stdout.buffer)
        self._out = structlog.BytesLogger(cast(BinaryIO, self._lines))
        self._json = style == "json"
        level = structlog.make_filtering_bound_logger(20)
        if style == "json":
            self._logger = structlog.wrap_logger(
                self._out,
                processors=[_stamp, structlog.processors.JSONRenderer(serializer=_dumps)],
                wrapper_class=level,
                cache_logger_on_first_use=True,
            ).bind()
        else:
            self._logger = structlog.wrap_logger(
                self._out,
                processors=[
                    structlog.processors.add_log_level,
                    structlog.processors.TimeStamper("%H:%M:%S"),
                    structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty()),
                    _encode,
                ],
                wrapper_class=level,
                cache_logger_on_first_use=True,
            ).bind()

    def event(self, event: str, **fields: object) -> None:
        self._logger.info(event, **fields)

    def error(self, event: str, error: BaseException | None = None, **fields: object) -> None:
        """Something that an operator should look at; `error` is written with its traceback, which holds no data."""
        if error is not None:
            fields["error"] = f"{type(error).__name__}: {error}"
            fields["traceback"] = "".join(traceback.format_exception(error))
        self._logger.error(event, **fields)

    def finished(self, end: Finished) -> None:
        """The one line of a request. As JSON it is made whole here: a bound logger with processors costs twice that,
        once for every request."""
        usage = end.usage
        fields = {
            "request_id": end.request_id,
            "client_request_id": end.client_request_id or None,
            "team": end.team,
            "key_id": end.key_id,
            "endpoint": end.endpoint,
            "model_requested": end.model_requested,
            "model_served": end.model_label,
            "status": end.status,
            "error_code": end.error_code,
            "stream": end.stream,
            "attempts": end.attempts,
            "input_tokens": usage.input_tokens if usage else 0,
            "output_tokens": usage.output_tokens if usage else 0,
            "usage_source": usage.source if usage else None,
            "cost_usd": usd(end.cost_nusd),
            "duration_ms": round(end.duration_s * 1000, 2),
            "first_byte_ms": None if end.first_byte_s is None else round(end.first_byte_s * 1000, 2),
            "upstream_ms": round(end.upstream_s * 1000, 2),
        }
        if usage and (usage.images or usage.video_ms or usage.audio_ms or usage.characters):
            fields |= _units(usage)
        if self._json:
            self._out.info(_dumps({"at": _now(), "level": "info", **fields, "event": "request"}))
        else:
            self._logger.info("request", **fields)

    def flush(self) -> None:
        self._lines.write_out()


def _units(usage: Usage) -> dict[str, float]:
    """What was used besides tokens, as a log line names it."""
    used = {
        "images": usage.images,
        "video_seconds": usage.video_ms / 1000,
        "audio_seconds": usage.audio_ms / 1000,
        "characters": usage.characters,
    }
    return {unit: amount for unit, amount in used.items() if amount}


class _Lines:
    """Collects lines and writes them together, at most `FLUSH_AFTER_S` late: one system call for many requests."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._waiting: list[bytes] = []
        self._scheduled: asyncio.TimerHandle | None = None

    def write(self, line: bytes) -> None:
        self._waiting.append(line)
        if self._scheduled is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # before or after the loop
                self.write_out()
            else:
                self._scheduled = loop.call_later(FLUSH_AFTER_S, self.write_out)

    def flush(self) -> None:
        """Called after each line by the logger; the timer does it."""

    def write_out(self) -> None:
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._out.write(b"".join(waiting))
            self._out.flush()


def _stamp(_logger: object, method: str, fields: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {"at": _now(), "level": method, **fields}


def _now() -> str:
    now_ms = int(time.time() * 1000)
    return f"{_second(now_ms // 1000)}.{now_ms % 1000:03d}Z"


@lru_cache(maxsize=1)
def _second(epoch_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_s))


def _dumps(fields: object, **_: object) -> bytes:
    try:
        return orjson.dumps(fields, default=repr)
    except TypeError:  # half a surrogate pair, which JSON may hold and UTF-8 may not: a client named its model so
        return json.dumps(fields, default=repr).encode()


def _encode(_logger: object, _method: str, line: object) -> bytes:
    return str(line).encode()
