"""What came of a fault, seen from all three sides: what a driver hands to the checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a client got, as it came: header names in lower case. `status` 0: the connection ended without an answer.

    `whole`: HTTP calls the body complete. `more`: bytes that came behind it although nothing was asked. `took_s`: until
    the last byte.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = True
    more: bytes = b""
    took_s: float = 0.0


@dataclass(frozen=True)
class Call:
    """One request as the upstream got it: the model it asked for."""

    model: str


@dataclass(frozen=True)
class Outcome:
    """`billed`: nano-USD by request id and model, of the upstream's own bill. `rows`: of the view `usage`, by request
    id. `events`: the proxy's log lines. `broken`: violated invariants of the ledger. `left`: what is still in flight or
    buffered, by name; all 0 where nothing is. `connections`: that the upstream saw, None where nobody counted.
    `unfaulted`: sha256 of the body that the simulator sent last, or would have sent without the fault.
    """

    answers: list[Answer]
    calls: list[Call]
    billed: Mapping[str, Mapping[str, int]]
    rows: list[dict[str, Any]]
    events: list[dict[str, Any]]
    broken: tuple[str, ...] = ()
    left: Mapping[str, int] = field(default_factory=dict)
    connections: int | None = None
    unfaulted: str | None = None
