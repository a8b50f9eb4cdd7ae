from __future__ import annotations

import asyncio
import random
import threading

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from oxyy_proxy.observe import Metrics
from oxyy_proxy.rules.figures import Snapshot, Total, TotalKey
from oxyy_proxy.rules.types import NUSD_PER_USD
from oxyy_proxy.steps.state import Exchange
from tests.observe.parts import ended
from tests.rig import Rig
from tests.steps.wires import QUESTION, ask

NOTHING = Snapshot({}, ())


def _series(family: str, totals: dict[TotalKey, Total]) -> list[str]:
    text = Metrics().rendering(Snapshot(totals, ()))().decode()
    return [line for line in text.splitlines() if line.startswith(family + "{")]


def test_units_are_counted_where_they_are_used() -> None:
    totals = {
        TotalKey("search", "CC", "gpt-5", "chat"): Total(40, 3, 1, 4),
        TotalKey("search", "CC", "veo-3", "videos"): Total(40, video_ms=8_001),
        TotalKey("search", "CC", "whisper", "transcriptions"): Total(40, audio_ms=500),
        TotalKey("search", "CC", "odd", "speech"): Total(40, images=2, characters=4096),
    }
    assert sorted(_series("oxyy_units_total", totals)) == [
        'oxyy_units_total{endpoint="speech",model="odd",team="search",unit="characters"} 4096.0',
        'oxyy_units_total{endpoint="speech",model="odd",team="search",unit="images"} 2.0',
        'oxyy_units_total{endpoint="transcriptions",model="whisper",team="search",unit="audio_seconds"} 0.5',
        'oxyy_units_total{endpoint="videos",model="veo-3",team="search",unit="video_seconds"} 8.001',
    ]


def test_a_team_that_changed_its_cost_centre_has_one_series_of_each() -> None:
    """Prometheus refuses a scrape in which one series has two values."""
    totals = {
        TotalKey("search", centre, "gpt-5", "chat"): Total(
            NUSD_PER_USD, 3, 1, 4, 1, images=2, video_ms=1, audio_ms=3_000, characters=4
        )
        for centre in ("CC-1", "CC-2")
    }
    assert _series("oxyy_cost_usd_total", totals) == [
        f'oxyy_cost_usd_total{{cost_center="{centre}",endpoint="chat",model="gpt-5",team="search"}} 1.0'
        for centre in ("CC-1", "CC-2")
    ]
    of_chat = 'endpoint="chat",'
    assert _series("oxyy_tokens_total", totals) == [
        f'oxyy_tokens_total{{{of_chat}kind="{kind}",model="gpt-5",team="search"}} {count}'
        for kind, count in (("input", 6.0), ("cached_input", 2.0), ("output", 8.0))
    ]
    assert _series("oxyy_units_total", totals) == [
        f'oxyy_units_total{{{of_chat}model="gpt-5",team="search",unit="{unit}"}} {count}'
        for unit, count in (("images", 4.0), ("video_seconds", 0.002), ("audio_seconds", 6.0), ("characters", 8.0))
    ]
    assert _series("oxyy_usage_estimated_total", totals) == [
        'oxyy_usage_estimated_total{model="gpt-5",team="search"} 2.0'
    ]


def _text(metrics: Metrics) -> str:
    return metrics.rendering(NOTHING)().decode()


def _from(text: str, name: str, until: str) -> str:
    """The lines from the first of one metric to the first of another."""
    return text[text.index(f"# HELP {name}") : text.index(f"# HELP {until}")]


_SPANS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_OVERHEADS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1)
_COMMITS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 1, 10)


class _Reference:
    """The same metrics, by prometheus_client alone."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        by_model = ["endpoint", "model"]
        self.requests = Counter(
            "oxyy_requests", "Requests answered.", ["team", "model", "endpoint", "status"], registry=registry
        )
        self.refusals = Counter("oxyy_refusals", "Requests refused by us.", ["team", "code"], registry=registry)
        self.duration = Histogram(
            "oxyy_request_duration_seconds", "From the head of a request to the end of its answer.", by_model,
            buckets=_SPANS_S, registry=registry,
        )  # fmt: skip
        self.first_byte = Histogram(
            "oxyy_time_to_first_byte_seconds", "From the head of a request to the first byte of its answer.", by_model,
            buckets=_SPANS_S, registry=registry,
        )  # fmt: skip
        self.overhead = Histogram(
            "oxyy_overhead_seconds", "Duration minus the time spent waiting on the upstream.", ["endpoint"],
            buckets=_OVERHEADS_S, registry=registry,
        )  # fmt: skip
        self.attempts = Counter(
            "oxyy_upstream_attempts", "Calls to the upstream.", ["model", "outcome"], registry=registry
        )
        self.failovers = Counter(
            "oxyy_failovers", "Attempts that followed a failed one.", ["from_model", "to_model", "reason"],
            registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge("oxyy_in_flight", "Requests being served.", ["endpoint"], registry=registry)
        self.commit = Histogram(
            "oxyy_ledger_commit_seconds", "One ledger transaction.", buckets=_COMMITS_S, registry=registry
        )

    def finished(self, x: Exchange) -> None:
        model = x.model_served or x.model_label
        self.requests.labels(x.team, model, x.endpoint, x.status).inc()
        if x.error_code is not None and not x.attempts:
            self.refusals.labels(x.team, x.error_code).inc()
            return
        self.duration.labels(x.endpoint, model).observe(x.duration_s)
        self.overhead.labels(x.endpoint).observe(max(0.0, x.duration_s - x.upstream_s))
        if x.first_byte_s is not None:
            self.first_byte.labels(x.endpoint, model).observe(x.first_byte_s)

    def text(self) -> str:
        return generate_latest(self.registry).decode()


def _any_request(chance: random.Random) -> Exchange:
    duration_s = chance.choice([*_SPANS_S, 0.0, 601.0, chance.random(), chance.expovariate(1)])
    error = chance.choice([None, None, "upstream_reset", 'a"b\\c'])
    return ended(
        team=chance.choice(["", "search", 'sup"port\n']),
        endpoint=chance.choice(["chat", "videos"]),
        model_label=chance.choice(["gpt-5", ""]),
        model_served=chance.choice([None, "gpt-5-mini"]),
        status=chance.choice([200, 429, 502]),
        error_code=error,
        attempts=chance.choice([0, 1, 2]),
        duration_s=duration_s,
        upstream_s=chance.choice([0.0, duration_s - 0.002, duration_s / 2, duration_s + 0.001]),
        first_byte_s=chance.choice([None, duration_s / 3, *_SPANS_S]),
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_text_is_what_prometheus_client_makes_of_the_same(seed: int) -> None:
    chance, metrics, reference = random.Random(seed), Metrics(), _Reference()
    assert _from(_text(metrics), "oxyy_requests", "oxyy_breaker_state") == reference.text()
    for _ in range(500):
        x = _any_request(chance)
        metrics.finished(x)
        reference.finished(x)
        metrics.attempt(x.model_label, x.endpoint)
        reference.attempts.labels(x.model_label, x.endpoint).inc()
        metrics.failover(x.model_label, "gpt-5", "status")
        reference.failovers.labels(x.model_label, "gpt-5", "status").inc()
        change = chance.choice([1, -1])
        metrics.in_flight[x.endpoint] += change
        reference.in_flight.labels(x.endpoint).inc(change)
        commit_s = chance.choice([*_COMMITS_S, chance.random() / 100, 11.0])
        metrics.commit_seconds(commit_s)
        reference.commit.observe(commit_s)
    assert _from(_text(metrics), "oxyy_requests", "oxyy_breaker_state") == reference.text()


def test_what_comes_after_the_instant_is_not_in_its_text() -> None:
    metrics = Metrics()
    metrics.finished(ended(first_byte_s=0.1))
    metrics.in_flight["videos"] += 1
    metrics.commit_seconds(0.1)
    before = _from(_text(metrics), "oxyy_requests", "oxyy_breaker_state")
    rendered = metrics.rendering(NOTHING)
    metrics.finished(ended(first_byte_s=0.1))
    metrics.finished(ended(team="support", endpoint="chat", attempts=0, error_code="invalid_json"))
    metrics.in_flight["videos"] -= 1
    metrics.in_flight["chat"] += 1
    metrics.commit_seconds(0.1)
    assert _from(rendered().decode(), "oxyy_requests", "oxyy_breaker_state") == before
    assert _from(_text(metrics), "oxyy_requests", "oxyy_breaker_state") != before


async def test_rendering_on_a_thread_while_requests_end_counts_each_once() -> None:
    metrics, done = Metrics(), threading.Event()

    def commits() -> None:
        while not done.is_set():
            metrics.commit_seconds(0.0003)

    writer = asyncio.create_task(asyncio.to_thread(commits))
    for number in range(30):
        rendering = asyncio.create_task(asyncio.to_thread(metrics.rendering(NOTHING)))
        for model in range(20):
            metrics.finished(ended(model_label=f"m-{number}-{model}", first_byte_s=0.1))
            await asyncio.sleep(0)
        lines = (await rendering).decode().splitlines()
        for name in ("requests_total", "request_duration_seconds_count", "time_to_first_byte_seconds_count"):
            assert sum(line.startswith(f"oxyy_{name}{{") for line in lines) == number * 20
    done.set()
    await writer


def test_no_number_of_requests_makes_new_series() -> None:
    metrics = Metrics()
    metrics.finished(ended())
    series = _text(metrics).count("\noxyy_")
    for number in range(100_000):
        mark = f"zz{number}"
        metrics.finished(ended(request_id=mark, client_request_id=mark, model_requested=mark, tag=mark, key_id=mark))
    text = _text(metrics)
    assert text.count("\noxyy_") == series
    assert 'status="200",team="search"} 100001.0' in text
    assert "zz" not in text


async def test_a_scrape_tells_every_request_that_had_ended(rig: Rig) -> None:
    for number in range(1, 11):
        assert (await ask(rig, QUESTION)).status == 200
        async with rig.client.get(f"{rig.admin_url}/metrics") as scraped:
            lines = (await scraped.text()).splitlines()
        chat = 'endpoint="chat",model="gpt-5"'
        assert f'oxyy_requests_total{{{chat},status="200",team="search"}} {number}.0' in lines
        assert f"oxyy_request_duration_seconds_count{{{chat}}} {number}.0" in lines
        assert 'oxyy_in_flight{endpoint="chat"} 0.0' in lines
