"""Request ids: unique, and in the order of time, so that the ledger grows at its end and is searched by time."""

from __future__ import annotations

_PREFIX = "req_"


def request_id(now: float, entropy: str) -> str:
    """`req_` + 11 hex digits of milliseconds since the epoch + `entropy` (at least 64 random bits, as hex)."""
    return f"{_PREFIX}{int(now * 1000):011x}{entropy}"


def first_id_at(epoch_s: int) -> str:
    """No id made at or after this second sorts below this; none made before it sorts above."""
    return f"{_PREFIX}{epoch_s * 1000:011x}"
