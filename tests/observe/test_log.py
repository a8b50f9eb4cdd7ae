from __future__ import annotations

import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from oxyy_proxy.observe import Finished, Log, Metrics
from oxyy_proxy.rules.figures import Snapshot, Total, TotalKey
from oxyy_proxy.rules.types import NUSD_PER_USD, Usage
from tests.rig import KEY, ORG_KEY, Rig
from tests.steps.wires import QUESTION, ask, ask_chat, http, own_rig, raw_upstream, says

FIELDS = {
    "at", "level", "event", "request_id", "client_request_id", "team", "key_id", "endpoint", "model_requested",
    "model_served", "status", "error_code", "stream", "attempts", "input_tokens", "output_tokens", "usage_source",
    "cost_usd", "duration_ms", "first_byte_ms", "upstream_ms",
}  # fmt: skip


class _Written:
    """What a rig wrote, once it has stopped."""

    text = ""

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == "request"]


@asynccontextmanager
async def _logged(folder: Path, capfd: pytest.CaptureFixture[str]) -> AsyncIterator[tuple[Rig, _Written]]:
    written = _Written()
    async with own_rig(folder) as rig:
        yield rig, written
    out, err = capfd.readouterr()
    written.text = out
    assert err == ""


async def test_a_request_is_one_line_with_the_documented_fields(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with _logged(tmp_path, capfd) as (rig, written):
        await ask(rig, QUESTION, headers={"x-request-id": "mine"})
        await ask_chat(rig, model="fast", stream=True)
        rows = rig.rows()
    first, second = written.requests
    assert set(first) == set(second) == FIELDS
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["at"])
    for line, row in zip(written.requests, rows, strict=True):
        assert line["request_id"] == row["request_id"]
        for name in ("team", "key_id", "endpoint", "model_requested", "model_served", "status", "attempts"):
            assert line[name] == row[name], name
        assert (line["input_tokens"], line["output_tokens"]) == (row["input_tokens"], row["output_tokens"])
        assert round(float(line["cost_usd"]) * 1e9) == row["cost_nusd"]
        assert line["usage_source"] == "upstream"
        assert 0 <= line["upstream_ms"] <= line["duration_ms"]
    assert (first["client_request_id"], first["stream"], first["first_byte_ms"]) == ("mine", False, None)
    assert (second["client_request_id"], second["stream"]) == (None, True)
    assert 0 < second["first_byte_ms"] <= second["duration_ms"]


async def test_a_refusal_is_one_line_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with _logged(tmp_path, capfd) as (rig, written):
        ids = [
            (await answer).headers["x-request-id"]
            for answer in (
                ask(rig, QUESTION, key="wrong"),
                ask_chat(rig, model="gpt-6"),
                ask(rig, b"{"),
                ask(rig, path="/v1/nothing", method="GET"),
                ask_chat(rig, simulate={"fault": "status", "status": 429}),
                ask(rig, path="/v1/usage", method="GET"),
            )
        ]
    assert [line["request_id"] for line in written.requests] == ids
    assert [(line["status"], line["error_code"], line["team"]) for line in written.requests] == [
        (401, "invalid_api_key", ""),
        (404, "model_not_found", "search"),
        (400, "invalid_json", "search"),
        (404, "unknown_url", "search"),
        (429, "upstream_429", "search"),
        (200, None, "search"),
    ]
    assert {line["cost_usd"] for line in written.requests} == {"0.00"}


SECRETS = ("secretprompt", "secretanswer", "secrettag", "secretuser", KEY, ORG_KEY)


async def test_no_prompt_answer_or_key_is_written_or_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    answer = b'{"choices": [{"message": {"content": "secretanswer"}}]'
    upstreams = [
        http(answer + b"}"),
        http(answer),
        http(answer + b', "error": {"message": "secretanswer"}}', "500 Oh", "application/json"),
        http(b'{"error": {"message": "secretanswer"}}'),
        b"HTTP/1.1 200 secretanswer\r\n\x00",
    ]
    body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "secretprompt"}], "user": "secretuser"}
    async with raw_upstream(*map(says, upstreams)) as upstream:
        gateway = "version: 1\nbreaker: {failures: 1000}\nretry: {budget_percent: 100}\n"
        async with own_rig(tmp_path, upstream_url=upstream.url, gateway=gateway) as rig:
            for stream in (False, True):
                for _ in upstreams:
                    await ask(rig, {**body, "stream": stream})
            await ask(rig, json.dumps(body).encode()[:-1])
            await ask(rig, {**body, "messages": "secretprompt"})
            await ask(rig, body, key="secretuser")
            async with rig.client.get(f"{rig.admin_url}/metrics") as scraped:
                metrics = await scraped.text()
        assert len(upstream.seen) >= 10
    written = "".join(capfd.readouterr())
    assert written.count('"event":"request"') == 13
    ledger = rig.ledger_path.read_bytes()  # checkpointed by the stop
    for secret in SECRETS:
        assert secret not in written, secret
        assert secret not in metrics, secret
        assert secret.encode() not in ledger, secret


async def test_lines_may_be_late_but_are_there_after_the_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with _logged(tmp_path, capfd) as (rig, written):
        for _ in range(20):
            await ask_chat(rig)
    assert len(written.requests) == 20
    assert [line["event"] for line in written.lines if line["event"] != "request"] == [
        "policy_loaded", "ready", "draining", "stopped",
    ]  # fmt: skip


@pytest.mark.parametrize("model", ["\ud800", "a\nb", '"}', "\x00", "x" * 10_000])
async def test_whatever_a_client_writes_is_one_line_of_json(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], model: str
) -> None:
    async with _logged(tmp_path, capfd) as (rig, written):
        assert (await ask(rig, {**QUESTION, "model": model}, headers={"x-request-id": "caf\xe9"})).status == 404
    (line,) = written.requests
    assert line["model_requested"] in (model, model[:200])


def test_an_error_is_written_with_its_traceback() -> None:
    out = io.BytesIO()
    log = Log("json", out)
    try:
        raise ValueError("no good")
    except ValueError as error:
        log.error("defect", error, request_id="req_1")
    log.flush()
    line = json.loads(out.getvalue())
    assert (line["level"], line["event"], line["request_id"]) == ("error", "defect", "req_1")
    assert line["error"] == "ValueError: no good"
    assert "Traceback" in line["traceback"]


def test_the_console_style_is_for_people() -> None:
    out = io.BytesIO()
    log = Log("console", out)
    log.event("ready", listen="127.0.0.1:1")
    log.flush()
    text = out.getvalue().decode()
    assert "ready" in text
    assert "listen=127.0.0.1:1" in text
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def _line(usage: Usage | None) -> dict[str, Any]:
    out = io.BytesIO()
    log = Log("json", out)
    log.finished(
        Finished("req_1", "", "search", "search-prod", "videos", "veo-3", "veo-3", 200, None, False, False, 1, usage,
                 40, 0.5, None, 0.4)
    )  # fmt: skip
    log.flush()
    line: dict[str, Any] = json.loads(out.getvalue())
    return line


def test_a_line_names_the_units_that_were_used_and_no_others() -> None:
    used = {"images": 2, "video_seconds": 8.001, "audio_seconds": 0.057, "characters": 4096}
    in_usage = {"images": 2, "video_ms": 8_001, "audio_ms": 57, "characters": 4096}
    for (unit, amount), (name, count) in zip(used.items(), in_usage.items(), strict=True):
        line = _line(Usage(**{name: count}))  # type: ignore[arg-type]
        assert line[unit] == amount
        assert set(line) - {unit} == FIELDS
    assert used.items() <= _line(Usage(**in_usage)).items()  # type: ignore[arg-type]
    for none in (None, Usage(3, 1, 0, 4)):
        assert set(_line(none)) == FIELDS


def _series(family: str, totals: dict[TotalKey, Total]) -> list[str]:
    text = Metrics().render(Snapshot(totals, ())).decode()
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
