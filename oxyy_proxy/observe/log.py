"""The log: one line for a request, and one for each event that an operator should know of."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import traceback
from functools import lru_cache
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol, cast

import orjson

from oxyy_proxy.rules.price import usd
from oxyy_proxy.rules.types import Usage

if TYPE_CHECKING:
    import structlog

FLUSH_AFTER_S = 0.1
"""A log line may be written this much late; the ledger is the record."""

BATCH = 256
"""So many lines are written without waiting longer: making them holds the loop up for less than a millisecond."""

_MILLIS = [f".{ms:03d}Z" for ms in range(1000)]


class Ended(Protocol):
    """One request, ended: what its log line and its metrics say. Spans in seconds; `upstream_s` is the part of
    `duration_s` that was spent waiting on the upstream, `started` the instant by `time.monotonic()`. Empty strings
    where the request did not come that far. `model_label` and `model_served` come from the policy, so are fit for
    labels. It is kept until its line is written, and must not change any more."""

    request_id: str
    client_request_id: str
    team: str
    key_id: str
    endpoint: str
    model_requested: str
    model_label: str
    model_served: str | None
    status: int
    error_code: str | None
    stream: bool
    attempts: int
    usage: Usage | None
    cost_nusd: int
    started: float
    duration_s: float
    first_byte_s: float | None
    upstream_s: float


class Log:
    """JSON lines on a byte stream, or coloured ones for people. `event` names what happened."""

    def __init__(self, style: Literal["json", "console"] = "json", out: BinaryIO | None = None) -> None:
        self._lines = _Lines(out or sys.stdout.buffer)
        self._console = None if style == "json" else _console(self._lines)

    def event(self, event: str, **fields: object) -> None:
        self._write("info", event, fields)

    def error(self, event: str, error: BaseException | None = None, **fields: object) -> None:
        """Something that an operator should look at; `error` is written with its traceback, which holds no data."""
        if error is not None:
            fields["error"] = f"{type(error).__name__}: {error}"
            fields["traceback"] = "".join(traceback.format_exception(error))
        self._write("error", event, fields)

    def finished(self, end: Ended) -> None:
        """The one line of a request. As JSON it is made when it is written, and not while its client waits."""
        if self._console is None:
            self._lines.write(end)
        else:
            fields = _fields(end, 0.0)
            del fields["at"], fields["level"], fields["event"]
            self._console.info("request", **fields)

    def flush(self) -> None:
        self._lines.write_out()

    def _write(self, level: Literal["info", "error"], event: str, fields: dict[str, object]) -> None:
        if self._console is None:
            self._lines.write(_line({"at": _at(time.time()), "level": level, **fields, "event": event}))
        else:
            getattr(self._console, level)(event, **fields)


def _console(lines: _Lines) -> structlog.typing.FilteringBoundLogger:
    """Coloured lines for people."""
    import structlog  # it brings rich along: 4 MB and 35 ms that JSON lines do without

    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        structlog.BytesLogger(cast(BinaryIO, lines)),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("%H:%M:%S"),
            structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty()),
            _encode,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        cache_logger_on_first_use=True,
    ).bind()
    return logger


class _Lines:
    """Collects lines and writes them together, in order and at most `FLUSH_AFTER_S` late: one system call for many
    requests. A request becomes a line then."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._waiting: list[bytes | Ended] = []
        self._due: asyncio.Handle | None = None

    def write(self, line: bytes | Ended) -> None:
        self._waiting.append(line)
        if self._due is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # before or after the loop
                self.write_out()
            else:
                self._due = loop.call_later(FLUSH_AFTER_S, self.write_out)
        elif len(self._waiting) == BATCH:
            self._due.cancel()  # not at once: a stream that cannot be written to must not fail a request
            self._due = asyncio.get_running_loop().call_soon(self.write_out)

    def flush(self) -> None:
        """Called after each line by the logger; the timer does it."""

    def write_out(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        waiting, self._waiting = self._waiting, []
        if waiting:
            epoch_s = time.time() - time.monotonic()
            self._out.write(b"".join([x if isinstance(x, bytes) else _line(_fields(x, epoch_s)) for x in waiting]))
            self._out.flush()


def _fields(end: Ended, epoch_s: float) -> dict[str, object]:
    """What the line of a request says, in order. `epoch_s`: the epoch's time when the monotonic clock stood at 0."""
    fields = _REQUEST.copy()
    fields["at"] = _at(epoch_s + end.started + end.duration_s)
    fields["request_id"] = end.request_id
    fields["client_request_id"] = end.client_request_id or None
    fields["team"] = end.team
    fields["key_id"] = end.key_id
    fields["endpoint"] = end.endpoint
    fields["model_requested"] = end.model_requested
    fields["model_served"] = end.model_served or end.model_label
    fields["status"] = end.status
    fields["error_code"] = end.error_code
    fields["stream"] = end.stream
    fields["attempts"] = end.attempts
    fields["cost_usd"] = usd(end.cost_nusd)
    fields["duration_ms"] = _ms(end.duration_s)
    if end.first_byte_s is not None:
        fields["first_byte_ms"] = _ms(end.first_byte_s)
    fields["upstream_ms"] = _ms(end.upstream_s)
    usage = end.usage
    if usage is not None:
        fields["input_tokens"] = usage.input_tokens
        fields["output_tokens"] = usage.output_tokens
        fields["usage_source"] = usage.source
        if usage.images or usage.video_ms or usage.audio_ms or usage.characters:
            del fields["event"]
            fields |= _units(usage)
            fields["event"] = "request"
    return fields


_REQUEST: dict[str, object] = {
    "at": "",
    "level": "info",
    "request_id": "",
    "client_request_id": None,
    "team": "",
    "key_id": "",
    "endpoint": "",
    "model_requested": "",
    "model_served": "",
    "status": 0,
    "error_code": None,
    "stream": False,
    "attempts": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "usage_source": None,
    "cost_usd": "0.00",
    "duration_ms": 0.0,
    "first_byte_ms": None,
    "upstream_ms": 0.0,
    "event": "request",
}
"""The members of a request's line, in order. A copy of them that is filled in costs half of a dict made anew."""


def _ms(span_s: float) -> float:
    """Seconds as milliseconds with two decimals. `round` takes four times as long, to be right about ties."""
    return (span_s * 100_000 + 0.5) // 1 / 100


def _units(usage: Usage) -> dict[str, float]:
    """What was used besides tokens, as a log line names it."""
    used = {
        "images": usage.images,
        "video_seconds": usage.video_ms / 1000,
        "audio_seconds": usage.audio_ms / 1000,
        "characters": usage.characters,
    }
    return {unit: amount for unit, amount in used.items() if amount}


def _at(epoch_s: float) -> str:
    second, ms = divmod(int(epoch_s * 1000), 1000)
    return _second(second) + _MILLIS[ms]


@lru_cache(maxsize=1)
def _second(epoch_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_s))


def _line(fields: dict[str, object]) -> bytes:
    try:
        return orjson.dumps(fields, repr, orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # half a surrogate pair, which JSON may hold and UTF-8 may not: a client named its model so
        return json.dumps(fields, default=repr).encode() + b"\n"


def _encode(_logger: object, _method: str, line: object) -> bytes:
    return str(line).encode()
