"""What a client says of its own patience and retries, in headers that the official SDKs send by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

_TIMEOUTS = ("x-stainless-read-timeout", "x-stainless-timeout")
"""Seconds: of the Python SDK, and of the one for Node."""

_RETRIES = "x-stainless-retry-count"

MARGIN = 0.1
LEAST_MARGIN_S = 0.2
MOST_MARGIN_S = 1.0
"""An answer takes time to arrive, and a wait may be ended a tenth of a second late: this much before the client's
patience ends it gets one. Of less than twice the least, half is left."""


def patience_s(headers: Mapping[str, str]) -> float | None:
    """How long a client waits for the beginning of an answer, less a margin; None where it does not say."""
    for name in _TIMEOUTS:
        if name in headers and (said := _number(headers[name]) or 0.0) > 0:
            return said - min(MOST_MARGIN_S, max(LEAST_MARGIN_S, said * MARGIN), said / 2)
    return None


def is_retry(headers: Mapping[str, str]) -> bool:
    """Whether the client itself is trying again."""
    return _RETRIES in headers and (_number(headers[_RETRIES]) or 0) > 0


def retry_after_s(value: str) -> float:
    """Retry-After in seconds; 0 where it says nothing, or a date (RFC 9110, section 10.2.3), which APIs do not send."""
    return max(0.0, _number(value) or 0.0)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None
