"""The breaker of a model: whether it may be called, by how its last calls went (README, "Failover").

A state is a value, an event gives the next one; `TRANSITIONS` is the whole of it:

    closed     a failure                      → failing, which counts from then on
    failing    failures ≥ `failures`, at least half of the calls since the first → open
               `window` has passed since the first → closed
    open       `open_for` has passed          → half-open when somebody asks: that one is the probe
    half-open  the probe succeeds             → closed
               the probe fails                → open
               the probe ends without either  → half-open, and the next one who asks is the probe
               the probe takes `open_for`     → half-open, and the next one who asks is a probe beside it

Only half of the calls failing opens it: one call in five that fails is better tried again than not at all. While
half-open the probes alone decide: a call from before the opening that ends now, a time-out say, tells of the past.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Literal, NamedTuple

from oxyy_proxy.rules.types import BreakerPolicy

Kind = Literal["closed", "failing", "open", "half_open"]
Event = Literal["success", "failure", "nothing", "cut"]
"""How a call went. `nothing`: it says nothing of the model, since the caller left or the proxy could not. `cut`: a
stream that had been told of as a success broke off, so that it is a failure and no further call."""


class State(NamedTuple):
    """`since`: when its count began, it opened, or became half-open; `calls` and `failures` since then. `probing`: when
    the probe that runs began."""

    kind: Kind = "closed"
    since: float = 0.0
    calls: int = 0
    failures: int = 0
    probing: float | None = None


CLOSED = State()

_Step = Callable[[State, BreakerPolicy, float], State]


def _stay(state: State, policy: BreakerPolicy, now: float) -> State:
    return state


def _first_failure(state: State, policy: BreakerPolicy, now: float) -> State:
    return _failed(State("failing", now, calls=1), policy, now)


def _success(state: State, policy: BreakerPolicy, now: float) -> State:
    return CLOSED if _is_over(state, policy, now) else state._replace(calls=state.calls + 1)


def _failure(state: State, policy: BreakerPolicy, now: float) -> State:
    if _is_over(state, policy, now):
        return _first_failure(state, policy, now)
    return _failed(state._replace(calls=state.calls + 1), policy, now)


def _cut(state: State, policy: BreakerPolicy, now: float) -> State:
    return _first_failure(state, policy, now) if _is_over(state, policy, now) else _failed(state, policy, now)


def _failed(state: State, policy: BreakerPolicy, now: float) -> State:
    state = state._replace(failures=state.failures + 1)
    if state.failures >= policy.failures and 2 * state.failures >= state.calls:
        return State("open", now)
    return state


def _is_over(state: State, policy: BreakerPolicy, now: float) -> bool:
    return now >= state.since + policy.window_s


def _close(state: State, policy: BreakerPolicy, now: float) -> State:
    return CLOSED


def _open_again(state: State, policy: BreakerPolicy, now: float) -> State:
    return State("open", now)


def _probe_lost(state: State, policy: BreakerPolicy, now: float) -> State:
    return state._replace(probing=None)


TRANSITIONS: Mapping[tuple[Kind, Event], _Step] = {
    ("closed", "success"): _stay,
    ("closed", "failure"): _first_failure,
    ("closed", "nothing"): _stay,
    ("closed", "cut"): _first_failure,
    ("failing", "success"): _success,
    ("failing", "failure"): _failure,
    ("failing", "nothing"): _stay,
    ("failing", "cut"): _cut,
    # Of calls that began before it opened:
    ("open", "success"): _stay,
    ("open", "failure"): _stay,
    ("open", "nothing"): _stay,
    ("open", "cut"): _stay,
    ("half_open", "success"): _close,
    ("half_open", "failure"): _open_again,
    ("half_open", "nothing"): _probe_lost,
    ("half_open", "cut"): _stay,  # what began before it: the probe's own success would have closed it
}


def after(state: State, event: Event, policy: BreakerPolicy, now: float, began: float = inf) -> State:
    """The state after a call has ended so. `began`: when it was sent, where that is known."""
    if state.kind == "half_open" and began < state.since:
        return state
    return TRANSITIONS[state.kind, event](state, policy, now)


def admit(state: State, policy: BreakerPolicy, now: float) -> tuple[bool, State]:
    """Whether a call may be made now, and the state when it is. While half-open, who is admitted is the probe."""
    if state.kind == "open" and now >= state.since + policy.open_for_s:
        return True, State("half_open", now, probing=now)
    if state.kind == "half_open":
        if state.probing is not None and now < state.probing + policy.open_for_s:
            return False, state
        return True, state._replace(probing=now)
    return state.kind != "open", state


def wait_s(state: State, policy: BreakerPolicy, now: float) -> float:
    """How long until a call may be made; 0 where one may now. A probe that is out tells soon."""
    if state.kind == "open":
        # A sum of floats may come out larger: a wait of 15.000000000000002 s would be told as 16.
        return max(0.0, min(policy.open_for_s, state.since + policy.open_for_s - now))
    return 1.0 if state.kind == "half_open" and state.probing is not None else 0.0
