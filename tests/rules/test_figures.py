"""The records that /metrics reads."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from oxyy_proxy.rules.figures import Snapshot, Total, TotalKey


def test_totals_begin_at_zero() -> None:
    assert set(Total()) == {0}


def test_units_come_after_what_the_first_ledgers_counted() -> None:
    """The order of the columns of `totals`, which are only ever added to."""
    assert Total._fields == (
        "cost_nusd", "input_tokens", "cached_input_tokens", "output_tokens", "estimated", "unresolved",
        "images", "video_ms", "audio_ms", "characters",
    )  # fmt: skip


def test_totals_are_kept_apart_by_every_part_of_their_key() -> None:
    keys = {
        TotalKey("search", "CC-1", "gpt-5", "chat"),
        TotalKey("support", "CC-1", "gpt-5", "chat"),
        TotalKey("search", "CC-2", "gpt-5", "chat"),
        TotalKey("search", "CC-1", "gpt-5-mini", "chat"),
        TotalKey("search", "CC-1", "gpt-5", "embeddings"),
    }
    totals = dict.fromkeys(keys, Total())
    totals[TotalKey("search", "CC-1", "gpt-5", "chat")] = Total(cost_nusd=5)
    assert sorted(total.cost_nusd for total in totals.values()) == [0, 0, 0, 0, 5]


def test_a_snapshot_does_not_change() -> None:
    blank = object.__new__(Snapshot)
    with pytest.raises(FrozenInstanceError):
        blank.standings = ()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        blank.totals = {}  # type: ignore[misc]
