"""What is asked and what must come back, byte for byte, whichever target stands in between."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

EVENTS = 64
EVENT_GAP_S = 0.003

INPUT_TOKENS, OUTPUT_TOKENS = 120, EVENTS
INPUT_USD_PER_M, OUTPUT_USD_PER_M = 1.25, 10.0
COST_NUSD = round(INPUT_TOKENS * INPUT_USD_PER_M * 1000 + OUTPUT_TOKENS * OUTPUT_USD_PER_M * 1000)
"""What the ledger must hold for each request: nano-USD."""

MODEL = "gpt-5"
_USAGE = {
    "prompt_tokens": INPUT_TOKENS,
    "completion_tokens": OUTPUT_TOKENS,
    "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}
_TEXT = (
    "A reverse proxy stands in front of a service, takes each request in its place, and hands it on. "
    "It may refuse, count or redirect what passes, and neither side needs to know."
)


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _frame(**fields: object) -> bytes:
    head = {"id": "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG", "object": "chat.completion.chunk", "created": 1795305600}
    return (
        b"data: " + _compact({**head, "model": f"{MODEL}-2026-08-07", "system_fingerprint": "fp_b", **fields}) + b"\n\n"
    )


def _event(index: int) -> bytes:
    last = index == EVENTS - 1
    delta = {} if last else {"content": f" word{index}"}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": "stop" if last else None}
    return _frame(service_tier="default", choices=[choice])


def json_answer(text: str = _TEXT) -> bytes:
    return _compact(
        {
            "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
            "object": "chat.completion",
            "created": 1795305600,
            "model": f"{MODEL}-2026-08-07",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": None, "annotations": []},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": _USAGE,
            "service_tier": "default",
            "system_fingerprint": "fp_b",
        }
    )


JSON_ANSWER = json_answer()
STREAM_EVENTS = tuple(_event(index) for index in range(EVENTS))
USAGE_EVENT = _frame(choices=[], usage=_USAGE)
DONE = b"data: [DONE]\n\n"
STREAM_ANSWER = b"".join(STREAM_EVENTS) + DONE
"""What a client sees that did not ask for the usage event."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of request. `marker` (sent as the field `user`) tells the stub upstream how to answer it.

    `seconds` is the length of a phase by number of connections; `stagger_s` spreads the start of the connections, so
    that paced streams do not tick in step; each waits up to `pause_s`, at random, before its next request, or those
    that ended together would begin together. `answer` None: the stream has no end. `body_bytes`: how long the body is
    at least, by one long message.
    """

    name: str
    title: str
    marker: str
    stream: bool
    answer: bytes | None
    seconds: tuple[tuple[int, float], ...] = ()
    stagger_s: float = 0.0
    pause_s: float = 0.0
    body_bytes: int = 0

    def request(self, authority: str, key: str) -> bytes:
        """The bytes of one HTTP request."""
        question = f"Explain in three sentences what a reverse proxy does. {_TEXT}"
        raw = self._body(question)
        if len(raw) < self.body_bytes:
            raw = self._body(_longer(question, self.body_bytes - len(raw)))
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {key}\r\n"
            "Accept: application/json\r\nUser-Agent: OpenAI/Python 3.54.0\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(raw)}\r\n\r\n"
        )
        return head.encode() + raw

    def _body(self, question: str) -> bytes:
        body: dict[str, object] = {
            "model": MODEL,
            "messages": [
                {"role": "system", "content": "You are a concise assistant of the platform team. " * 3},
                {"role": "user", "content": question},
            ],
            "max_completion_tokens": 256,
            "temperature": 0.2,
            "user": self.marker,
        }
        if self.stream:
            body["stream"] = True
        return _compact(body)


def _longer(text: str, by: int) -> str:
    """The text with so many bytes of JSON behind it."""
    line = f"{_TEXT}\n"
    encoded = len(_compact(line)) - 2
    return text + line * (by // encoded) + "." * (by % encoded)


JSON = Workload("json", "JSON", "bench-json", False, JSON_ANSWER, ((1, 0.4), (32, 0.5)))
BURST = Workload("burst", "stream at once", "bench-burst", True, STREAM_ANSWER, ((1, 0.4), (32, 0.5)))
PACED = Workload(
    "paced",
    "paced stream",
    "bench-paced",
    True,
    STREAM_ANSWER,
    ((1, 1.5), (32, 1.0)),
    stagger_s=EVENTS * EVENT_GAP_S,
    pause_s=0.032,
)
OPEN = Workload("open", "open stream", "bench-open", True, None)
WORKLOADS = (JSON, BURST, PACED)

_KB = 1000
_SECONDS = ((8, 0.6),)


def _size(size_bytes: int) -> str:
    return f"{size_bytes // _KB:,} KB" if size_bytes < _KB * _KB else f"{size_bytes // _KB // _KB} MB"


def _asking(size_bytes: int) -> Workload:
    title = f"JSON, request of {_size(size_bytes)}"
    return Workload(f"asks-{size_bytes}", title, JSON.marker, False, JSON_ANSWER, _SECONDS, body_bytes=size_bytes)


def _answering(size_bytes: int) -> Workload:
    answer = json_answer(_longer(_TEXT, size_bytes - len(JSON_ANSWER)))
    title = f"JSON, answer of {_size(size_bytes)}"
    return Workload(f"answers-{size_bytes}", title, f"bench-answer-{size_bytes}", False, answer, _SECONDS)


@cache
def sizes() -> tuple[Workload, ...]:
    """JSON with requests of 1 KB to 1 MB, what aiohttp takes at most unless it is told otherwise, and with answers of
    1 KB to 10 MB."""
    return (*[_asking(_KB * 10**n) for n in range(4)], *[_answering(_KB * 10**n) for n in range(5)])
