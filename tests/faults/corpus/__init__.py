"""Requests as raw bytes, good and bad, and what must come of each."""

from __future__ import annotations

from tests.faults.corpus import framing, heads, targets
from tests.faults.corpus.case import Case

CASES: tuple[Case, ...] = (
    *framing.LENGTHS,
    *framing.CODINGS,
    *framing.CHUNKS,
    *heads.LINES,
    *heads.NAMES,
    *heads.VALUES,
    *heads.SIZES,
    *heads.HOSTS,
    *heads.TWICE,
    *heads.TOGETHER,
    *targets.LINES,
    *targets.METHODS,
    *targets.TARGETS,
    *targets.UPGRADES,
    *targets.EXPECTS,
)
