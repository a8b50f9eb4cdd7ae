"""The breaker of a model: whether it may be called, by how its last calls went (README, "Failover").

A state is a value, an event gives the next one; `TRANSITIONS` is the whole of it:

    closed     a failure                      → failing, which counts from then on
    failing    failures ≥ `failures`, at least half of the calls since the first → open
               `window` has passed since the first → closed
    open       `open_for` has passed          → half-open when somebody asks: that one is the probe
    half-open  the probe succeeds             → closed
               the probe fails                → open
               the probe ends without either  → half-open, and the next one who asks is the probe

Only half of the calls failing opens it: one call in five that fails is better tried again than not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from oxyy_proxy.rules.types import BreakerPolicy

Kind = Literal["closed", "failing", "open", "half_open"]
Event = Literal["success", "failure", "nothing"]
"""How a call went. `nothing`: it says nothing of the model, since the caller left or the proxy could not."""


class State(NamedTuple):
    """`since`: when its count began, or when it opened; `calls` and `failures` since then. `probing`: a probe runs."""

    kind: Kind = "closed"
    since: float = 0.0
    calls: int = 0
    failures: int = 0
    probing: bool = False


CLOSED = State()

_Step = Callable[[State, BreakerPolicy, float], State]


def _stay(state: State, policy: BreakerPolicy, now: float) -> State:
    return state


def _first_failure(state: State, policy: BreakerPolicy, now: float) -> State:
    return _counted(State("failing", now), policy, now, failed=True)


def _success(state: State, policy: BreakerPolicy, now: float) -> State:
    return CLOSED if _is_over(state, policy, now) else _counted(state, policy, now, failed=False)


def _failure(state: State, policy: BreakerPolicy, now: float) -> State:
    return (
        _first_failure(state, policy, now)
        if _is_over(state, policy, now)
        else _counted(state, policy, now, failed=True)
    )


def _counted(state: State, policy: BreakerPolicy, now: float, *, failed: bool) -> State:
    state = state._replace(calls=state.calls + 1, failures=state.failures + failed)
    if failed and state.failures >= policy.failures and 2 * state.failures >= state.calls:
        return State("open", now)
    return state


def _is_over(state: State, policy: BreakerPolicy, now: float) -> bool:
    return now >= state.since + policy.window_s


def _close(state: State, policy: BreakerPolicy, now: float) -> State:
    return CLOSED


def _open_again(state: State, policy: BreakerPolicy, now: float) -> State:
    return State("open", now)


def _probe_lost(state: State, policy: BreakerPolicy, now: float) -> State:
    return state._replace(probing=False)


TRANSITIONS: Mapping[tuple[Kind, Event], _Step] = {
    ("closed", "success"): _stay,
    ("closed", "failure"): _first_failure,
    ("closed", "nothing"): _stay,
    ("failing", "success"): _success,
    ("failing", "failure"): _failure,
    ("failing", "nothing"): _stay,
    # Of calls that began before it opened:
    ("open", "success"): _stay,
    ("open", "failure"): _stay,
    ("open", "nothing"): _stay,
    ("half_open", "success"): _close,
    ("half_open", "failure"): _open_again,
    ("half_open", "nothing"): _probe_lost,
}


def after(state: State, event: Event, policy: BreakerPolicy, now: float) -> State:
    """The state after a call has ended so."""
    return TRANSITIONS[state.kind, event](state, policy, now)


def admit(state: State, policy: BreakerPolicy, now: float) -> tuple[bool, State]:
    """Whether a call may be made now, and the state when it is. While half-open, who is admitted is the probe."""
    if state.kind == "open" and now >= state.since + policy.open_for_s:
        return True, State("half_open", now, probing=True)
    if state.kind == "half_open":
        return not state.probing, state._replace(probing=True)
    return state.kind != "open", state


def wait_s(state: State, policy: BreakerPolicy, now: float) -> float:
    """How long until a call may be made; 0 where one may now. A probe that is out tells soon."""
    if state.kind == "open":
        return max(0.0, state.since + policy.open_for_s - now)
    return 1.0 if state.kind == "half_open" and state.probing else 0.0
