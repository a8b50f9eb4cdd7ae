"""The arithmetic of the figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

ENOUGH_FOR_P99 = 100


def quantile(samples: Sequence[float], q: float) -> float:
    """The nearest-rank quantile: always one of the samples."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median over rounds with the least and the greatest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ratios formed within each round, so that what slows the machine for a while slows both sides of a ratio."""
    return Spread.of([mine / other for mine, other in zip(ours, theirs, strict=True)])


def added(through: Sequence[Sequence[float]], direct: Sequence[Sequence[float]], q: float) -> float | None:
    """What standing in between adds to a quantile of latency. Arguments: per round, the samples of each request.

    The median over rounds of the difference within a round. A p99 needs 100 samples: with fewer in a round all rounds
    are pooled, with fewer in all of them there is none.
    """
    rounds = list(zip(through, direct, strict=True))
    if q > 0.5 and min(len(side) for pair in rounds for side in pair) < ENOUGH_FOR_P99:
        rounds = [([each for one in through for each in one], [each for one in direct for each in one])]
        if min(len(side) for side in rounds[0]) < ENOUGH_FOR_P99:
            return None
    return median(quantile(mine, q) - quantile(other, q) for mine, other in rounds)
