"""How an answer goes out, as a list of steps: decided here without I/O, carried out by `play`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from .answers import JSON, Answer


class Act(Enum):
    """Steps without a parameter."""

    HEAD = "send the status line and the headers"
    RESET = "drop the connection at once: the client sees it reset"
    CLOSE = "close the connection in order, whether or not the answer is complete"


@dataclass(frozen=True, slots=True)
class Send:
    """Send these bytes of the body."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Go on this much later than the step before was due; None: never, until the client leaves."""

    seconds: float | None


@dataclass(frozen=True, slots=True)
class Refuse:
    """Stop listening and drop every connection, for so long."""

    for_s: float


Step = Act | Send | Wait | Refuse


@dataclass(frozen=True, slots=True)
class Script:
    """One answer on the wire. `length` is the Content-Length that is claimed; None sends chunks."""

    steps: tuple[Step, ...]
    status: int = 200
    content_type: str = JSON
    length: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def plain(answer: Answer, pace_s: float) -> Script:
    """The answer as it should go out."""
    return sending(answer, answer.pieces, pace_s)


def sending(answer: Answer, pieces: Iterable[bytes], pace_s: float) -> Script:
    """These pieces in place of the answer's own, complete as far as HTTP is concerned."""
    pieces = tuple(pieces)
    return of_steps(answer, paced(answer, pieces, pace_s), sum(map(len, pieces)))


def of_steps(answer: Answer, body: Iterable[Step], length: int | None) -> Script:
    """Headers as of this answer, then these steps; a stream is sent in chunks, whatever its length."""
    length = None if answer.stream or answer.chunked else length
    return Script((Act.HEAD, *body), content_type=answer.content_type, length=length)


def paced(answer: Answer, pieces: Iterable[bytes], pace_s: float) -> list[Step]:
    """Events or pieces of a sound, `pace_s` apart, the last event with its `[DONE]` right behind it.

    JSON and text go out in one piece, and so does a sound that is not to be paced.
    """
    if answer.textual or not (pace_s or answer.stream):
        return [Send(b"".join(pieces))]
    wait = Wait(pace_s)
    steps: list[Step] = []
    for piece in pieces:
        if steps and pace_s and piece is not answer.end:
            steps.append(wait)
        steps.append(Send(piece))
    return steps
