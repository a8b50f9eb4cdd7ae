"""Request ids: unique, and in the order of time, so that the ledger grows at its end and is searched by time."""

from __future__ import annotations

_PREFIX = "req_"


def request_id(now: float, entropy: str) -> str:
    """`req_` + 11 hex digits of milliseconds since the epoch + `entropy` (at least 64 random bits, as hex)."""
    # Through bytes: to format a number costs twice as much.
    return f"{_PREFIX}{int(now * 1000).to_bytes(6, 'big').hex()[1:]}{entropy}"


def made_at(request_id: str) -> float:
    """When an id was made, in epoch seconds. Raises ValueError for what is none."""
    if not request_id.startswith(_PREFIX):
        raise ValueError(f"{request_id[:40]!a} is no request id")
    return int(request_id[len(_PREFIX) :][:11], 16) / 1000


def first_id_at(epoch_s: int) -> str:
    """No id made at or after this second sorts below this; none made before it sorts above."""
    return f"{_PREFIX}{epoch_s * 1000:011x}"
