"""What each fault does to an answer. KINDS is the whole list: a new fault is one function and one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import orjson

from .answers import JSON, SSE, Answer, event
from .errors import of_status
from .script import Act, Refuse, Script, Send, Step, Wait, of_steps, paced, plain, sending

OUTAGE_S = 5.0


@dataclass(frozen=True, slots=True)
class Parameters:
    """Everything a fault can be told; each kind names the fields it takes."""

    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    for_s: float | None = None
    after_bytes: int | None = None
    bytes: int = 16
    every_ms: float = 10


Effect = Callable[[Answer, Parameters, float], Script]


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of fault: `billed` if the upstream's work is charged all the same; `only` if it needs that answer."""

    effect: Effect
    parameters: tuple[str, ...] = ()
    billed: bool = True
    only: Literal["stream"] | None = None


def refusal(status: int, message: bytes, headers: Mapping[str, str] | None = None) -> Script:
    """An error answer."""
    return Script((Act.HEAD, Send(message)), status=status, length=len(message), headers=headers or {})


def _status(answer: Answer, p: Parameters, pace_s: float) -> Script:
    return refusal(p.status, orjson.dumps(of_status(p.status).payload()), p.headers)


def _refuse(answer: Answer, p: Parameters, pace_s: float) -> Script:
    return Script((Refuse(OUTAGE_S if p.for_s is None else p.for_s),), status=0)


def _reset_before_headers(answer: Answer, p: Parameters, pace_s: float) -> Script:
    return Script((Act.RESET,), status=0)


def _reset_after_headers(answer: Answer, p: Parameters, pace_s: float) -> Script:
    return of_steps(answer, (Act.RESET,), _length(answer))


def _reset_mid_body(answer: Answer, p: Parameters, pace_s: float) -> Script:
    first, _ = _parted(answer, p.after_bytes)
    return of_steps(answer, (*paced(answer, first, pace_s), Act.RESET), _length(answer))


def _hang_before_headers(answer: Answer, p: Parameters, pace_s: float) -> Script:
    whole = plain(answer, pace_s)
    steps = (Wait(p.for_s), *whole.steps)
    status = 0 if p.for_s is None else 200
    return Script(steps, status=status, content_type=whole.content_type, length=whole.length)


def _hang_mid_body(answer: Answer, p: Parameters, pace_s: float) -> Script:
    first, rest = _parted(answer, p.after_bytes)
    steps = (*paced(answer, first, pace_s), Wait(p.for_s), *paced(answer, rest, pace_s))
    return of_steps(answer, steps, _length(answer))


def _drip(answer: Answer, p: Parameters, pace_s: float) -> Script:
    body = b"".join(answer.pieces)
    steps: list[Step] = []
    for start in range(0, len(body), p.bytes):
        steps += [Wait(p.every_ms / 1000), Send(body[start : start + p.bytes])]
    return of_steps(answer, steps, len(body))


def _malformed_json(answer: Answer, p: Parameters, pace_s: float) -> Script:
    """JSON, a text or a sound that stops half-way; in a stream one event of that kind among good ones."""
    if not answer.stream:
        return sending(answer, [_cut(b"".join(answer.pieces))], pace_s)
    middle = len(answer.content) // 2
    broken = _cut(answer.content[middle]) + b"\n\n"
    pieces = (*answer.content[:middle], broken, *answer.content[middle + 1 :], answer.report, answer.end)
    return sending(answer, filter(None, pieces), pace_s)


def _malformed_sse(answer: Answer, p: Parameters, pace_s: float) -> Script:
    """Lines of JSON where events should be: no `data:`, no blank line between them."""
    pieces = (piece.removeprefix(b"data: ").rstrip() + b"\n" for piece in answer.pieces)
    return sending(answer, pieces, pace_s)


def _error_event(answer: Answer, p: Parameters, pace_s: float) -> Script:
    """A 200 whose content says that it failed, in JSON in place of a text or a sound."""
    error = of_status(500).payload()
    if answer.stream:
        return sending(answer, [event(error)], pace_s)
    return replace(sending(answer, [orjson.dumps(error)], pace_s), content_type=JSON)


def _error_mid_stream(answer: Answer, p: Parameters, pace_s: float) -> Script:
    half = answer.content[: (len(answer.content) + 1) // 2]
    return sending(answer, (*half, event(of_status(500).payload())), pace_s)


def _missing_usage(answer: Answer, p: Parameters, pace_s: float) -> Script:
    return sending(answer, filter(None, (*answer.content, answer.unreported, answer.end)), pace_s)


def _truncated(answer: Answer, p: Parameters, pace_s: float) -> Script:
    """Less than was promised. A stream promises no length: it just ends, half-way, as if all were well."""
    first, _ = _parted(answer, None)
    end = () if answer.stream else (Act.CLOSE,)
    return of_steps(answer, (*paced(answer, first, pace_s), *end), _length(answer))


def _empty(answer: Answer, p: Parameters, pace_s: float) -> Script:
    return of_steps(answer, (), 0)


def _no_done(answer: Answer, p: Parameters, pace_s: float) -> Script:
    return sending(answer, filter(None, (*answer.content, answer.report)), pace_s)


KINDS: Mapping[str, Kind] = {
    "status": Kind(_status, ("status", "headers"), billed=False),
    "refuse": Kind(_refuse, ("for_s",), billed=False),
    "reset_before_headers": Kind(_reset_before_headers),
    "reset_after_headers": Kind(_reset_after_headers),
    "reset_mid_body": Kind(_reset_mid_body, ("after_bytes",)),
    "hang_before_headers": Kind(_hang_before_headers, ("for_s",)),
    "hang_mid_body": Kind(_hang_mid_body, ("for_s", "after_bytes")),
    "drip": Kind(_drip, ("bytes", "every_ms")),
    "malformed_json": Kind(_malformed_json),
    "malformed_sse": Kind(_malformed_sse, only="stream"),
    "error_event": Kind(_error_event, billed=False),
    "error_mid_stream": Kind(_error_mid_stream, only="stream"),
    "missing_usage": Kind(_missing_usage),
    "truncated": Kind(_truncated),
    "empty": Kind(_empty),
    "no_done": Kind(_no_done, only="stream"),
}


def _length(answer: Answer) -> int:
    return sum(map(len, answer.pieces))


def _parted(answer: Answer, after_bytes: int | None) -> tuple[list[bytes], list[bytes]]:
    """What goes out before the fault and what would follow: half of the events or bytes, or exactly so many bytes."""
    pieces = list(answer.pieces)
    if after_bytes is None:
        if answer.content_type == SSE:
            middle = len(answer.content) // 2
            return pieces[:middle], pieces[middle:]
        after_bytes = _length(answer) // 2
    first: list[bytes] = []
    while pieces and after_bytes > 0:
        piece = pieces.pop(0)
        first.append(piece[:after_bytes])
        if rest := piece[after_bytes:]:
            pieces.insert(0, rest)
        after_bytes -= len(first[-1])
    return first, pieces


def _cut(piece: bytes) -> bytes:
    return piece[: max(1, len(piece) // 2)]
