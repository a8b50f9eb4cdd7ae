"""The ledger's running figures, as /metrics reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from oxyy_proxy.rules.budget import Standing


class TotalKey(NamedTuple):
    """What running totals are kept by."""

    team: str
    cost_center: str
    model: str
    endpoint: str


class Total(NamedTuple):
    """Sums over settled requests since the ledger began. `estimated`: those whose usage was estimated. `unresolved`:
    requests that may have cost money, under the model of their last attempt. Of video and audio: milliseconds."""

    cost_nusd: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    estimated: int = 0
    unresolved: int = 0
    images: int = 0
    video_ms: int = 0
    audio_ms: int = 0
    characters: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The ledger's figures at one instant, for /metrics."""

    totals: Mapping[TotalKey, Total]
    standings: Sequence[Standing]
