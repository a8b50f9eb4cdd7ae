"""What a case of the corpus is, and the bytes that most of them are made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from tests.rig import KEY

BODY = json.dumps({"model": "gpt-5", "messages": [{"role": "user", "content": "plain"}]}).encode()
HIDDEN = json.dumps({"model": "gpt-5", "messages": [{"role": "user", "content": "smuggled"}]}).encode()
PATH = "/v1/chat/completions"

Ends = Literal["open", "closed", "waits", "waits for a body"]


@dataclass(frozen=True)
class Case:
    """Bytes of a client, and what must come of them.

    `answers`: the statuses that the client gets, in order. `ends`: the connection stays "open" for a further request,
    is "closed" by the proxy, or the proxy "waits" for more; where it "waits for a body", and the client ends instead,
    it answers 400. `asked`: the bodies that the upstream may see, in order, one for each 200 to a chat. `parsers`:
    whether h11 must read as many requests as are answered; where not, `why` says what it lacks. `pieces`: sent one
    after the other.
    """

    name: str
    sent: bytes
    answers: tuple[int, ...]
    ends: Ends
    asked: tuple[bytes, ...] = ()
    parsers: bool = True
    why: str = ""
    pieces: int = 1


def accepted(name: str, sent: bytes, *bodies: bytes, ends: Ends = "open", why: str = "", pieces: int = 1) -> Case:
    """As many requests as `bodies`, all answered 200."""
    return Case(name, sent, (200,) * len(bodies), ends, bodies, not why, why, pieces)


def refused(name: str, sent: bytes, status: int = 400, *, ends: Ends = "closed", why: str = "") -> Case:
    """One answer, and nothing goes upstream."""
    return Case(name, sent, (status,), ends, (), False, why)


def head(*lines: str | bytes, first: str | bytes = f"POST {PATH} HTTP/1.1", host: bool = True) -> bytes:
    """A head with the team's key, and these lines."""
    start = [first, *(["Host: proxy"] if host else []), f"Authorization: Bearer {KEY}", *lines]
    return b"\r\n".join(_raw(line) for line in start) + b"\r\n\r\n"


def post(*lines: str | bytes, body: bytes = BODY, first: str | bytes = f"POST {PATH} HTTP/1.1") -> bytes:
    """A whole request: its Content-Length is right."""
    return head(*lines, f"Content-Length: {len(body)}", first=first) + body


def get(*lines: str | bytes, target: str | bytes = "/v1/models", version: str = "HTTP/1.1") -> bytes:
    """A request without a body."""
    return head(*lines, first=b"GET %b %b" % (_raw(target), version.encode()))


def chunks(*pieces: bytes, last: bytes = b"0\r\n\r\n") -> bytes:
    """A chunked body."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + last


def chunked(*lines: str | bytes, body: bytes | None = None, name: str = "Transfer-Encoding: chunked") -> bytes:
    """A whole chunked request; `name`: the line that says so."""
    return head(*lines, name) + (chunks(BODY) if body is None else body)


def _raw(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


HIDDEN_REQUEST = post(body=HIDDEN)
