"""What a scenario found, and how large it is played."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Found:
    """One line of the evidence: what was wanted, and what was seen."""

    name: str
    wanted: str
    seen: str
    ok: bool


@dataclass(frozen=True)
class Scale:
    """`share` of the full number of requests; how many drains; `crowd`: share of the full number of slow clients;
    `rounds` of what is compared pairwise, 0: nothing is."""

    share: float
    drains: int
    crowd: float
    rounds: int

    def requests(self, full: int) -> int:
        return max(1, round(full * self.share))

    def clients(self, full: int) -> int:
        return max(1, round(full * self.crowd))


FULL = Scale(1.0, 100, 1.0, 9)
REDUCED = Scale(0.06, 2, 0.04, 0)
