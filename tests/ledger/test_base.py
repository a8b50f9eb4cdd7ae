"""Every store has the whole protocol."""

from __future__ import annotations

import inspect

import pytest

from oxyy_proxy.ledger.base import AttemptEnd, Job, Ledger, Opening, Recovered, Settlement
from oxyy_proxy.ledger.sqlite import SqliteLedger

VERBS = [name for name, _ in inspect.getmembers(Ledger, inspect.isfunction) if not name.startswith("_")]


def test_the_protocol_has_the_verbs_of_a_ledger() -> None:
    assert sorted(VERBS) == [
        "close", "job", "next_attempt", "open", "running_jobs", "settle", "snapshot", "standings", "submitted",
    ]  # fmt: skip
    assert isinstance(inspect.getattr_static(Ledger, "writable"), property)


@pytest.mark.parametrize("store", [SqliteLedger])
@pytest.mark.parametrize("verb", VERBS)
def test_a_store_takes_what_the_protocol_says(store: type, verb: str) -> None:
    assert inspect.signature(getattr(store, verb)) == inspect.signature(getattr(Ledger, verb))


@pytest.mark.parametrize("record", [Opening, AttemptEnd, Settlement, Job])
def test_a_record_cannot_change_on_its_way_to_the_writer(record: type) -> None:
    made = record(*["as it was"] * len(record.__annotations__))
    for name, kind in record.__annotations__.items():
        if not str(kind).startswith("Final["):  # which the type checker sees to
            with pytest.raises(AttributeError):
                setattr(made, name, "other")
    assert not hasattr(made, "__dict__")


def test_a_settlement_counts_as_sent_unless_it_says_otherwise() -> None:
    end = Settlement("req_1", 0.0, "voided", 503, AttemptEnd("failed", "status", 503))
    assert (end.sent, end.cost_nusd, end.usage, end.model_served) == (True, 0, None, None)


def test_what_was_recovered_is_named() -> None:
    assert Recovered(unresolved=2, voided=1, running=3) == (2, 1, 3)
