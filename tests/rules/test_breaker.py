"""The breaker as a table: by which events it opens, who may try it again, and that it never stays shut for good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxyy_proxy.rules.breaker import CLOSED, TRANSITIONS, Event, Kind, State, admit, after, wait_s
from oxyy_proxy.rules.types import BreakerPolicy

POLICY = BreakerPolicy(failures=3, window_s=30.0, open_for_s=15.0)
OPEN = State("open", 100.0)


def told(*events: Event, at: float = 0.0, every_s: float = 0.0, policy: BreakerPolicy = POLICY) -> State:
    """The state of a breaker that was closed, after these."""
    state = CLOSED
    for n, event in enumerate(events):
        state = after(state, event, policy, at + n * every_s)
    return state


def test_every_event_is_answered_in_every_state() -> None:
    assert set(TRANSITIONS) == set(product(get_args(Kind), get_args(Event)))


def many(event: Event, count: int) -> list[Event]:
    return [event] * count


WAYS: dict[str, tuple[Sequence[Event], Kind]] = {
    "nothing happens": ([], "closed"),
    "successes": (many("success", 50), "closed"),
    "the callers leave": (many("nothing", 50), "closed"),
    "a failure": (["failure"], "failing"),
    "one failure too few": (["failure", "failure"], "failing"),
    "failures alone": (many("failure", 3), "open"),
    "half of the calls": (["failure", "success", "failure", "success", "success", "failure"], "open"),
    "less than half": (["failure", "success", "failure", "success", "success", "success", "failure"], "failing"),
    "less than half and then more": (["failure", *many("success", 4), *many("failure", 4)], "open"),
    "a success never opens it": (["failure", "failure", "success"], "failing"),
    "who leaves is no call": (["failure", "nothing", "nothing", "nothing", "failure", "nothing", "failure"], "open"),
    "streams that are cut": (["success", "cut", "success", "cut", "success", "cut"], "open"),
    "a cut stream counts once as a call": (
        ["success", "cut", "success", "cut", "success", "success", "failure"],
        "open",
    ),
    "some streams are cut": (["cut", *many("success", 6), "cut", "cut"], "failing"),
    "what ends after it opened": ([*many("failure", 3), "success", "failure", "cut", "nothing"], "open"),
}


@pytest.mark.parametrize(("events", "kind"), WAYS.values(), ids=WAYS)
def test_it_opens_by_enough_failures_that_are_half_of_the_calls(events: Sequence[Event], kind: Kind) -> None:
    assert told(*events).kind == kind


@pytest.mark.parametrize("last", ["failure", "cut"])
@pytest.mark.parametrize(("age_s", "kind"), [(29.9, "open"), (30.0, "failing")])
def test_failures_count_for_the_window_that_the_first_began(last: Event, age_s: float, kind: Kind) -> None:
    state = after(told("failure", "failure"), last, POLICY, age_s)
    assert state.kind == kind
    if kind == "failing":
        assert (state.since, state.calls, state.failures) == (age_s, 1, 1)


def test_a_success_after_the_window_closes_it() -> None:
    assert after(told("failure", "failure"), "success", POLICY, 29.9).kind == "failing"
    assert after(told("failure", "failure"), "success", POLICY, 30.0) == CLOSED


def test_one_failure_may_be_enough() -> None:
    assert told("failure", policy=BreakerPolicy(failures=1)).kind == "open"


@pytest.mark.parametrize("state", [CLOSED, told("failure")])
def test_calls_are_admitted_while_it_is_not_open(state: State) -> None:
    assert admit(state, POLICY, 5.0) == (True, state)
    assert wait_s(state, POLICY, 5.0) == 0.0


def test_open_it_admits_nobody_and_says_for_how_long() -> None:
    assert admit(OPEN, POLICY, 114.9) == (False, OPEN)
    assert [wait_s(OPEN, POLICY, now) for now in (100.0, 110.0, 114.5, 200.0)] == [15.0, 5.0, 0.5, 0.0]


def test_half_open_it_admits_one_probe() -> None:
    admitted, probing = admit(OPEN, POLICY, 115.0)
    assert (admitted, probing.kind) == (True, "half_open")
    assert [admit(probing, POLICY, 115.0 + n / 10) for n in range(100)] == [(False, probing)] * 100
    assert wait_s(probing, POLICY, 116.0) == 1.0


@pytest.mark.parametrize(("event", "kind"), [("success", "closed"), ("failure", "open"), ("nothing", "half_open")])
def test_the_probe_decides(event: Event, kind: Kind) -> None:
    _, probing = admit(OPEN, POLICY, 120.0)
    state = after(probing, event, POLICY, 121.0, began=120.0)
    assert state.kind == kind
    assert admit(state, POLICY, 121.0)[0] == (event != "failure")
    if event == "failure":
        assert wait_s(state, POLICY, 121.0) == 15.0
    if event == "nothing":
        assert wait_s(state, POLICY, 121.0) == 0.0
        assert admit(admit(state, POLICY, 121.0)[1], POLICY, 121.0)[0] is False


@pytest.mark.parametrize("event", get_args(Event))
def test_a_call_from_before_does_not_decide_for_the_probe(event: Event) -> None:
    _, probing = admit(OPEN, POLICY, 120.0)
    assert after(probing, event, POLICY, 121.0, began=99.0) == probing


def test_a_probe_that_takes_long_does_not_keep_all_others_out() -> None:
    _, first = admit(OPEN, POLICY, 120.0)
    assert admit(first, POLICY, 134.9)[0] is False
    admitted, second = admit(first, POLICY, 135.0)
    assert (admitted, admit(second, POLICY, 135.0)[0]) == (True, False)
    # The first may still tell: else a model whose answers take longer than `open_for` would never close it.
    assert after(second, "success", POLICY, 150.0, began=120.0) == CLOSED


def test_a_policy_with_other_figures_is_in_force_at_once() -> None:
    assert admit(OPEN, BreakerPolicy(open_for_s=2.0), 102.0)[0] is True
    assert admit(OPEN, BreakerPolicy(open_for_s=60.0), 115.0)[0] is False
    assert after(told("failure"), "failure", BreakerPolicy(failures=2), 1.0).kind == "open"
    assert after(told("failure", "failure"), "failure", BreakerPolicy(failures=3, window_s=0.5), 1.0).kind == "failing"


@dataclass
class Model:
    """What is known of the calls in plain lists, to say what the breaker must be."""

    now: float = 0.0
    state: State = CLOSED
    running: list[float] = field(default_factory=list)

    def ask(self) -> bool:
        admitted, self.state = admit(self.state, POLICY, self.now)
        if admitted:
            self.running.append(self.now)
        return admitted


STEPS = st.one_of(
    st.just("ask"),
    st.tuples(st.sampled_from(["success", "failure", "nothing"]), st.integers(0, 9)),
    st.floats(0.1, 20.0),
)


@given(st.lists(STEPS, max_size=80))
def test_whatever_happens_one_probe_runs_at_a_time_and_it_can_always_close_again(
    steps: list[str | float | tuple[Event, int]],
) -> None:
    model = Model()
    for step in steps:
        if step == "ask":
            before = model.state
            if model.ask() and before.kind == "half_open" and before.probing is not None:
                assert model.now >= before.probing + POLICY.open_for_s
        elif isinstance(step, float):
            model.now += step
        elif model.running and isinstance(step, tuple):
            event, which = step
            began = model.running.pop(which % len(model.running))
            before, model.state = model.state, after(model.state, event, POLICY, model.now, began)
            if before.kind == "half_open" and began < before.since:
                assert model.state == before
        assert model.state.failures <= model.state.calls or model.state.kind != "failing"
        assert wait_s(model.state, POLICY, model.now) <= POLICY.open_for_s
    # Whoever was admitted ends without a word, and one call that goes well closes it.
    for began in model.running:
        model.state = after(model.state, "nothing", POLICY, model.now, began)
    model.now += POLICY.window_s
    assert model.ask()
    assert after(model.state, "success", POLICY, model.now, model.now) == CLOSED
