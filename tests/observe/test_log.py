from __future__ import annotations

import asyncio
import io
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from oxyy_proxy.observe import Log
from oxyy_proxy.observe.log import BATCH, FLUSH_AFTER_S
from oxyy_proxy.rules.types import Usage
from oxyy_proxy.steps.state import Exchange
from tests.observe.parts import ended
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


def _lines(*requests: Exchange) -> list[dict[str, Any]]:
    out = io.BytesIO()
    log = Log("json", out)
    for request in requests:
        log.finished(request)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def _line(usage: Usage | None) -> dict[str, Any]:
    (line,) = _lines(ended(usage=usage))
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


class _Disk(io.BytesIO):
    """Counts how often it is written to, and may be full."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.full = False

    def write(self, data: Any) -> int:
        if self.full:
            raise OSError("No space left on device")
        self.writes += 1
        return super().write(data)

    @property
    def ids(self) -> list[str]:
        """Of the lines that are written: a request's id, or what an event is named."""
        lines = [json.loads(line) for line in self.getvalue().splitlines()]
        return [line.get("request_id", line["event"]) for line in lines]


async def test_a_request_is_written_in_time_and_with_others() -> None:
    out = _Disk()
    log = Log("json", out)
    for number in range(20):
        log.finished(ended(request_id=str(number)))
    assert out.writes == 0
    began = time.monotonic()
    while out.writes == 0:
        assert time.monotonic() < began + 50 * FLUSH_AFTER_S
        await asyncio.sleep(0.01)
    assert out.ids == [str(number) for number in range(20)]
    assert out.writes == 1
    log.finished(ended(request_id="later"))
    log.flush()
    assert out.ids[20:] == ["later"]


async def test_a_full_batch_is_written_without_waiting_but_not_inside_a_request() -> None:
    out = _Disk()
    log = Log("json", out)
    for number in range(BATCH - 1):
        log.finished(ended(request_id=str(number)))
    await asyncio.sleep(0)
    assert out.writes == 0
    log.finished(ended(request_id="last"))
    log.finished(ended(request_id="one more"))
    assert out.writes == 0
    await asyncio.sleep(0)
    assert (out.writes, len(out.ids), out.ids[-2:]) == (1, BATCH + 1, ["last", "one more"])
    log.finished(ended(request_id="next"))
    await asyncio.sleep(0)
    assert out.writes == 1
    log.flush()
    assert (out.writes, out.ids[-1]) == (2, "next")


async def test_events_and_requests_are_written_in_the_order_they_came() -> None:
    out = _Disk()
    log = Log("json", out)
    log.event("ready")
    log.finished(ended(request_id="1"))
    log.error("defect", ValueError("no good"))
    log.finished(ended(request_id="2"))
    log.finished(ended(request_id="3"))
    log.event("stopped")
    assert out.writes == 0
    log.flush()
    log.flush()
    assert out.ids == ["ready", "1", "defect", "2", "3", "stopped"]
    assert out.writes == 1


async def test_a_stream_that_cannot_be_written_to_fails_no_request() -> None:
    out = _Disk()
    log = Log("json", out)
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    out.full = True
    for _ in range(BATCH):
        log.finished(ended())
    await asyncio.sleep(0)
    assert len(told) == 1
    out.full = False
    log.finished(ended(request_id="after"))
    log.flush()
    assert out.ids == ["after"]


async def test_a_line_tells_when_the_request_ended_and_not_when_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    log = Log("json", out)
    log.finished(ended(started=100.0, duration_s=0.25))
    log.finished(ended(started=99.0, duration_s=1.3))
    monkeypatch.setattr("oxyy_proxy.observe.log.time.monotonic", lambda: 100.5)
    monkeypatch.setattr("oxyy_proxy.observe.log.time.time", lambda: 1_700_000_000.5)
    log.flush()
    monkeypatch.undo()
    assert [json.loads(line)["at"] for line in out.getvalue().splitlines()] == [
        "2023-11-14T22:13:20.250Z",
        "2023-11-14T22:13:20.300Z",
    ]


@pytest.mark.parametrize("more", [{}, {"model_requested": "\ud800"}, {"usage": Usage(images=2)}, {"error_code": "x"}])
def test_the_line_of_a_request_is_what_the_logger_makes_of_its_fields(more: dict[str, Any]) -> None:
    out = io.BytesIO()
    log = Log("json", out)
    log.finished(ended(**more))
    (line,) = out.getvalue().splitlines()
    fields = json.loads(line)
    del fields["at"], fields["level"], fields["event"]
    log.event("request", **fields)
    _, logged = out.getvalue().splitlines()
    assert line.partition(b'"level"')[2] == logged.partition(b'"level"')[2]
    assert len(line) == len(logged)


def test_spans_are_told_to_a_hundredth_of_a_millisecond() -> None:
    line, short = _lines(
        ended(duration_s=1.2345678, first_byte_s=0.0123449, upstream_s=600.0),
        ended(duration_s=0.000004, upstream_s=0.0),
    )
    assert (line["duration_ms"], line["first_byte_ms"], line["upstream_ms"]) == (1234.57, 12.34, 600_000)
    assert (short["duration_ms"], short["first_byte_ms"], short["upstream_ms"]) == (0, None, 0)


def test_a_request_is_told_to_people_too() -> None:
    out = io.BytesIO()
    Log("console", out).finished(ended(model_served="veo-2"))
    (text,) = out.getvalue().decode().splitlines()
    for said in ("request_id=req_1", "model_requested=veo-3", "model_served=veo-2", "status=200", "duration_ms=500.0"):
        assert said in text
    assert "at=" not in text
