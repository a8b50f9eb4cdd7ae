"""Windows, what a request reserves on each limit, and whether it fits (README, "Policies")."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, tzinfo
from functools import lru_cache
from math import ceil
from typing import NamedTuple

from oxyy_proxy.errors import ProxyError, QuotaExceeded, RateLimited
from oxyy_proxy.rules.price import usd
from oxyy_proxy.rules.route import matches
from oxyy_proxy.rules.types import Limit, Per, Plan, Policy, Principal, Target

RATE_RETRY_AFTER_S = 60
"""The longest Retry-After of a rate limit: SDKs give up on, or ignore, longer ones."""


class Window(NamedTuple):
    """A span of the calendar, in epoch seconds: `start` ≤ t < `end`."""

    start: int
    end: int


ALWAYS = Window(0, 0)
"""The window of `concurrent`, which knows no calendar."""


class Reservation(NamedTuple):
    """What one request holds on one limit: nano-USD, or a count."""

    limit: Limit
    window: Window
    amount: int


class Standing(NamedTuple):
    """Where a limit stands in its window."""

    limit: Limit
    window: Window
    spent: int
    held: int

    @property
    def remaining(self) -> int:
        """What may still be reserved; never below zero, even after an overrun."""
        return max(0, self.limit.cap - self.spent - self.held)


def window(limit: Limit, now: float) -> Window:
    """The limit's window that holds `now` (epoch seconds)."""
    if limit.per is None:
        return ALWAYS
    # Every window begins on a whole minute of UTC, so the answer is the same within one.
    return _window(limit.per, limit.zone, int(now // 60))


@lru_cache(maxsize=4096)
def _window(per: Per, zone: tzinfo, minute: int) -> Window:
    at = minute * 60
    if per == "minute":
        return Window(at, at + 60)
    local = datetime.fromtimestamp(at, zone)
    if per == "hour":
        start = at - local.minute * 60
        return Window(start, start + 3600)
    first = local.replace(hour=0, minute=0, fold=0, tzinfo=None)
    if per == "day":
        following = first + timedelta(days=1)
    else:
        first = first.replace(day=1)
        following = (first + timedelta(days=32)).replace(day=1)
    return Window(_epoch(first, zone), _epoch(following, zone))


def _epoch(local: datetime, zone: tzinfo) -> int:
    return int(local.replace(tzinfo=zone).timestamp())


def watching(policy: Policy, principal: Principal) -> tuple[Limit, ...]:
    """The limits that watch this principal: the organisation's, the team's, and those of its key."""
    key_id = principal.key.id
    return policy.limits + tuple(limit for limit in principal.team.limits if limit.key in (None, key_id))


def covers(limit: Limit, model: str) -> bool:
    """Whether calls of this model count on the limit."""
    return not limit.models or matches(limit.models, model)


def reservations(plan: Plan, now: float) -> tuple[Reservation, ...]:
    """What the plan must hold on each of its limits: the worst over the chain, as one target answers in the end."""
    everything = _worst(plan.targets)
    found = []
    for limit in plan.limits:
        worst = everything
        if limit.models:
            watched = [target for target in plan.targets if covers(limit, target.model.name)]
            if not watched:
                continue
            worst = _worst(watched)
        found.append(Reservation(limit, window(limit, now), worst.get(limit.meter, 1)))
    return tuple(found)


def _worst(targets: Sequence[Target]) -> dict[str, int]:
    """What to hold by meter for those targets; the other meters count requests."""
    return {
        "usd": max([target.worst_nusd for target in targets]),
        "tokens": max([target.worst_tokens for target in targets]),
    }


def refusal(asked: Iterable[tuple[Standing, int]], now: float) -> ProxyError | None:
    """None if every amount fits what its limit has left, else what to tell the client.

    Of several limits that refuse, the one that takes longest to reset is named: waiting for another is no use.
    """
    full = [(standing, amount) for standing, amount in asked if amount > standing.remaining]
    if not full:
        return None
    standing, amount = max(full, key=lambda pair: pair[0].window.end)
    return _refuse(standing, amount, now)


def _refuse(standing: Standing, amount: int, now: float) -> ProxyError:
    limit = standing.limit
    owner = f"team {limit.team}" if limit.team else "the organisation"
    scope = f" for key {limit.key}" if limit.key else ""
    scope += f" for models {', '.join(limit.models)}" if limit.models else ""
    if limit.per is None:
        return RateLimited(
            f"{limit.cap} requests of {owner}{scope} are running, which is the limit. Retry when one has ended.",
            headers={"Retry-After": "1"},
        )
    left, cap, need = (_amount(limit, value) for value in (standing.remaining, limit.cap, amount))
    wait_s = max(1, ceil(standing.window.end - now))
    message = (
        f"This request may use up to {need}, and {left} of the {limit.per}'s {cap} remain to {owner}{scope}; "
        f"the {limit.per} ends in {duration(wait_s)}. "
    )
    if is_quota(limit):
        return QuotaExceeded(
            message + "Lower max_tokens, wait, or ask your platform team to raise the limit.",
            headers={"Retry-After": str(wait_s), "x-should-retry": "false"},
        )
    return RateLimited(message + "Retry then.", headers={"Retry-After": str(min(wait_s, RATE_RETRY_AFTER_S))})


def is_quota(limit: Limit) -> bool:
    """A budget (`insufficient_quota`) rather than a rate (`rate_limit_exceeded`)."""
    return limit.meter == "usd" or limit.per in ("day", "month")


def _amount(limit: Limit, value: int) -> str:
    return f"${usd(value)}" if limit.meter == "usd" else f"{value} {limit.meter}"


def duration(seconds: int) -> str:
    """Seconds as OpenAI's rate-limit headers write them: `1s`, `6m0s`, `2h0m5s`."""
    hours, rest = divmod(seconds, 3600)
    minutes, secs = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{secs}s"
    return f"{minutes}m{secs}s" if minutes else f"{secs}s"


def tightest(standings: Iterable[Standing]) -> dict[str, Standing]:
    """Of each meter, the limit that has the least left."""
    found: dict[str, Standing] = {}
    for standing in standings:
        meter = standing.limit.meter
        if meter not in found or standing.remaining < found[meter].remaining:
            found[meter] = standing
    return found
