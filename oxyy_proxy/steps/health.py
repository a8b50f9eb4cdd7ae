"""How the upstream's models do: a breaker for each, and how many retries there may be. In memory, for this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, inf
from time import monotonic

from oxyy_proxy.errors import UpstreamFailure, UpstreamStatus, UpstreamUnavailable
from oxyy_proxy.rules import breaker
from oxyy_proxy.rules.allowance import Allowance
from oxyy_proxy.rules.breaker import CLOSED, Event, State
from oxyy_proxy.rules.types import Policy, Target


class Health:
    """Asked before every call to a model, and told how it went: `admit` and `ended` come in pairs."""

    def __init__(self, changed: Callable[[str, str], None], clock: Callable[[], float] = monotonic) -> None:
        """`changed` is told a model and the new kind of its breaker's state. `clock`: as `time.monotonic`."""
        self._changed = changed
        self._clock = clock
        self._states: dict[str, State] = {}
        self._retries = Allowance()
        self._retries_of: dict[str, Allowance] = {}

    def first(self, targets: Sequence[Target], policy: Policy) -> int:
        """Which target of a new request is called first: the first whose breaker admits it. Raises
        UpstreamUnavailable where none does."""
        now = self._clock()
        self._retries.request(now)
        asked = targets[0].model.name
        self._of(asked).request(now)
        if self.admit(asked, policy):
            return 0
        for at in range(1, len(targets)):
            if self.admit(targets[at].model.name, policy):
                return at
        wait_s = min(breaker.wait_s(self._state(target.model.name), policy.breaker, now) for target in targets)
        raise UpstreamUnavailable(
            "The upstream keeps failing for every model that may answer this. Retry later, or ask for another model.",
            headers={"Retry-After": str(max(1, ceil(wait_s))), "x-should-retry": "false"},
        )

    def admit(self, model: str, policy: Policy) -> bool:
        """Whether the model may be called now; if so, `ended` must follow."""
        state = self._states.get(model)
        if state is None:
            return True
        admitted, after = breaker.admit(state, policy.breaker, self._clock())
        self._keep(model, state, after)
        return admitted

    def ended(self, model: str, event: Event, policy: Policy, began: float = inf) -> None:
        """How a call went. `began`: when it was sent, by the clock; left out where it was not."""
        state = self._states.get(model)
        if state is None and (event == "success" or event == "nothing"):
            return  # as nearly always: it stays closed
        state = state or CLOSED
        self._keep(model, state, breaker.after(state, event, policy.breaker, self._clock(), began))

    def may_retry(self, asked: str, policy: Policy) -> bool:
        """Whether a call may follow a failed one, for a request whose first model is `asked`; if so it is counted."""
        percent, now, own = policy.retry.budget_percent, self._clock(), self._of(asked)
        if not self._retries.has_room(percent, now) or not own.has_room(percent, now):
            return False
        self._retries.retry(now)
        own.retry(now)
        return True

    def _of(self, model: str) -> Allowance:
        found = self._retries_of.get(model)
        if found is None:
            found = self._retries_of[model] = Allowance()
        return found

    def _state(self, model: str) -> State:
        return self._states.get(model, CLOSED)

    def _keep(self, model: str, before: State, after: State) -> None:
        if after is before:
            return
        if after.kind == "closed":
            self._states.pop(model, None)
        else:
            self._states[model] = after
        if after.kind != before.kind:
            self._changed(model, after.kind)


def verdict(failure: UpstreamFailure) -> Event:
    """What a failure says of the model. A refused key and a rate limit say nothing of it."""
    if isinstance(failure, UpstreamStatus):
        return "failure" if failure.upstream_status >= 500 or failure.upstream_status == 408 else "nothing"
    return "failure" if failure.retryable else "nothing"
