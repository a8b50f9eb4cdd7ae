"""Valid folders, and the policy that comes out of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from oxyy_proxy.endpoints import ENDPOINTS
from oxyy_proxy.policyfiles import load
from oxyy_proxy.rules.route import allowed
from oxyy_proxy.rules.types import BreakerPolicy, Limit, PartTokens, Price, Retry
from tests.policyfiles.conftest import VALID, Write, sha

EXAMPLE = Path(__file__).parents[2] / "policies"

FULL_GATEWAY = """\
version: 1
timezone: UTC
limits:                                  # over all teams together
  - {meter: usd, per: month, cap: 50000}
retry:
  on: [500, 503]
  attempts: 3                            # upstream calls for one request, fallbacks included
  deadline: 600s                         # one deadline over the whole chain
  first_byte: 60s                        # per attempt, streams
  answer: 300s                           # per attempt, answers that come whole
  idle: 60s                              # between bytes of a stream
  budget_percent: 20                     # retries as a share of requests, see 7
breaker: {failures: 5, window: 30s, open_for: 15s}
on_disconnect: drain                     # or cancel
drain: 30s
allow_internal_urls: true
video_job_timeout: 2h
"""

FULL_MODELS = """\
version: 1
models:
  gpt-5:
    endpoints: [chat]
    price: {input: 1.25, cached_input: 0.125, output: 10.00}   # USD per 1M tokens
    max_output_tokens: 16384
    fallbacks: [gpt-5-mini, claude-opus-4.6]
  gpt-5-mini: {endpoints: [chat], price: {input: 0.25, output: 2}}
  claude-opus-4.6: {endpoints: [chat], price: {input: 5, output: 25}}
  text-embedding-3-large: {endpoints: [embeddings], price: {input: 0.13}}
  dall-e-3:
    endpoints: [images]
    price: {image: {default: 0.04, "1024x1792": 0.08, "hd:1024x1024": 0.08}}   # per image
  veo-3:
    endpoints: [videos]
    price: {video_second: {default: 0.40, 1080p: 0.50}}                        # per second
    default_seconds: 4
    max_seconds: 60
  tts-1-hd: {endpoints: [speech], price: {character: 30.00}}                   # USD per 1M characters
  whisper-1: {endpoints: [transcriptions], price: {audio_minute: 0.006}}       # per minute
aliases: {fast: gpt-5-mini}
default_models: {images: dall-e-3}
"""

FULL_TEAM = f"""\
version: 1
team: search
cost_center: CC-1042
keys:
  - {{id: search-prod, sha256: "{sha("search-prod").upper()}", expires: 2027-06-30}}
models:
  allow: [gpt-5, gpt-5-mini, "claude-*", "text-embedding-3-*"]   # nothing is allowed that is not named
  deny: ["*-preview"]                                            # deny wins
limits:
  - {{meter: usd, per: month, cap: 5000, timezone: Europe/Berlin}}
  - {{meter: usd, per: day, cap: 50, models: ["veo-*"]}}
  - {{meter: tokens, per: minute, cap: 400000}}
  - {{meter: requests, per: minute, cap: 600}}
  - {{meter: concurrent, cap: 64}}
  - {{meter: usd, per: month, cap: 800, key: search-prod}}
fallbacks: {{gpt-5: [gpt-5-mini]}}         # this team's chain; [] turns failover off
mode: enforce                            # or shadow
"""

FULL = {"gateway.yaml": FULL_GATEWAY, "models.yaml": FULL_MODELS, "teams/search.yaml": FULL_TEAM}


def test_the_example_folder_loads_without_errors_or_warnings() -> None:
    loaded = load(EXAMPLE, now=datetime(2026, 11, 1, tzinfo=UTC).timestamp())
    assert loaded.warnings == ()
    assert set(loaded.policy.teams) == {"search", "studio", "support"}
    ids = {principal.key.id: principal.team.name for principal in loaded.policy.keys.values()}
    assert ids == {
        "search-prod": "search",
        "search-batch": "search",
        "studio-prod": "studio",
        "support-prod": "support",
    }


def test_the_example_folder_has_a_model_for_each_endpoint_that_some_team_may_call() -> None:
    policy = load(EXAMPLE).policy
    served = {
        endpoint
        for model in policy.models.values()
        for endpoint in model.endpoints
        if any(allowed(team, model.name) for team in policy.teams.values())
    }
    assert served == {endpoint.name for endpoint in ENDPOINTS}


def test_the_example_folder_has_a_limit_of_each_meter_in_each_team() -> None:
    policy = load(EXAMPLE).policy
    for team in policy.teams.values():
        assert {limit.meter for limit in team.limits} == {"usd", "tokens", "requests", "concurrent"}


def test_the_whole_schema_is_accepted(write: Write) -> None:
    loaded = load(write(FULL))
    assert loaded.warnings == ()
    assert loaded.policy.retry.budget_percent == 20
    assert loaded.policy.breaker == BreakerPolicy(failures=5, window_s=30, open_for_s=15, slow_s=None)


def test_prices_are_nano_usd_per_million_units(write: Write) -> None:
    models = load(write(FULL)).policy.models
    assert models["gpt-5"].prices == {
        "input": Price(1_250_000_000),
        "cached_input": Price(125_000_000),
        "output": Price(10_000_000_000),
    }
    assert models["dall-e-3"].prices["image"] == Price(
        40_000_000_000_000, {"1024x1792": 80_000_000_000_000, "hd:1024x1024": 80_000_000_000_000}
    )
    assert models["veo-3"].prices["video_second"].variants == {"1080p": 500_000_000_000_000}
    assert models["whisper-1"].prices["audio_minute"] == Price(6_000_000_000_000)
    assert models["tts-1-hd"].prices["character"] == Price(30_000_000_000)


def test_the_gateway_and_its_defaults(write: Write) -> None:
    policy = load(write(FULL)).policy
    assert policy.retry == Retry(frozenset({500, 503}), 3, 600.0, 60.0, 300.0, 60.0)
    assert (policy.on_disconnect, policy.drain_s) == ("drain", 30.0)
    assert (policy.allow_internal_urls, policy.video_job_timeout_s) == (True, 7200.0)
    assert policy.limits == (Limit("organisation usd/month", "usd", "month", 50_000 * 10**9, ZoneInfo("UTC")),)
    assert policy.default_models == {"images": "dall-e-3"}
    empty = load(write({"gateway.yaml": ""})).policy
    assert (empty.retry, empty.on_disconnect, empty.drain_s, empty.limits) == (Retry(), "drain", 30.0, ())
    assert (empty.allow_internal_urls, empty.video_job_timeout_s) == (False, 86_400.0)
    assert empty.part_tokens == PartTokens()


def test_a_team_and_the_ids_of_its_limits(write: Write) -> None:
    policy = load(write(FULL)).policy
    team = policy.teams["search"]
    assert (team.name, team.cost_center, team.fallbacks) == ("search", "CC-1042", {"gpt-5": ("gpt-5-mini",)})
    assert (team.allow[0], team.deny) == ("gpt-5", ("*-preview",))
    assert [limit.id for limit in team.limits] == [
        "search usd/month",
        "search usd/day models=veo-*",
        "search tokens/minute",
        "search requests/minute",
        "search concurrent",
        "search usd/month key=search-prod",
    ]
    assert team.limits[0].zone == ZoneInfo("Europe/Berlin")
    assert team.limits[1].zone == ZoneInfo("UTC")
    assert [limit.cap for limit in team.limits] == [5000 * 10**9, 50 * 10**9, 400_000, 600, 64, 800 * 10**9]
    assert policy.keys[sha("search-prod")].team is team


def test_figures_for_parts_and_the_way_of_a_disconnect_are_taken(write: Write) -> None:
    folder = write(
        {
            "gateway.yaml": "on_disconnect: cancel\ndrain: 0s\nretry: {on: [429, 500]}\n",
            "models.yaml": VALID["models.yaml"] + "part_tokens: {image: 5, audio: 6}\n",
        }
    )
    policy = load(folder).policy
    assert policy.part_tokens == PartTokens(image=5, audio=6, file=20000)
    assert (policy.on_disconnect, policy.drain_s, sorted(policy.retry.on)) == ("cancel", 0.0, [429, 500])
