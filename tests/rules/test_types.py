"""The records that everything else speaks in."""

from __future__ import annotations

from datetime import UTC

import pytest

from oxyy_proxy.rules import types
from oxyy_proxy.rules.types import Limit, Model, PartTokens, Policy, Retry, Team, Usage

CLASSES = [one for one in vars(types).values() if isinstance(one, type) and one.__module__ == types.__name__]
# A protocol says what others must offer; it is nobody's record.
RECORDS = [one for one in CLASSES if not getattr(one, "_is_protocol", False)]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_records_do_not_change_and_hold_nothing_unnamed(record: type) -> None:
    blank = object.__new__(record)
    for name, kind in record.__annotations__.items():
        if not kind.startswith("Final["):  # which the type checker sees to
            with pytest.raises(AttributeError):
                setattr(blank, name, 1)
    assert record.__annotations__
    assert not hasattr(blank, "__dict__")


def test_all_records_are_seen() -> None:
    assert {types.Usage, types.Policy, types.Plan, types.Limit} <= set(RECORDS)
    assert len(RECORDS) >= 12


def test_cached_and_audio_tokens_are_counted_once() -> None:
    usage = Usage(input_tokens=10, cached_input_tokens=4, audio_input_tokens=3, output_tokens=5, audio_output_tokens=5)
    assert usage.tokens == 15
    assert Usage().tokens == 0


def test_defaults_are_those_of_the_design() -> None:
    assert Retry() == Retry(frozenset({500, 503}), 3, 600.0, 60.0, 300.0, 60.0)
    policy = Policy(version="1", models={}, teams={}, keys={})
    assert (policy.on_disconnect, policy.drain_s, policy.limits, dict(policy.aliases)) == ("drain", 30.0, (), {})
    assert PartTokens() == PartTokens(image=1600, audio=4000, file=20000)
    assert Usage().source == "upstream"


def test_records_share_no_mutable_default() -> None:
    first, second = (Team(name, "CC", (), ("*",)) for name in "ab")
    assert first.fallbacks is not second.fallbacks
    assert Model("a", frozenset(), {}).fallbacks == ()


def test_a_limit_can_be_a_key() -> None:
    limits = {Limit("a", "usd", "month", 1, UTC): 1, Limit("a", "usd", "month", 2, UTC): 2}
    assert limits[Limit("a", "usd", "month", 2, UTC)] == 2
