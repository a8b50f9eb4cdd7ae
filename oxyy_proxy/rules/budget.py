"""Windows, what a request reserves on each limit, and whether it fits (README, "Policies")."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from functools import lru_cache
from math import ceil
from operator import itemgetter
from typing import NamedTuple

from oxyy_proxy.errors import ProxyError, QuotaExceeded, RateLimited
from oxyy_proxy.rules.price import usd
from oxyy_proxy.rules.route import matches
from oxyy_proxy.rules.types import Limit, Meter, Per, Plan, Policy, Principal, Target

RATE_RETRY_AFTER_S = 60
"""The longest Retry-After of a rate limit: SDKs give up on, or ignore, longer ones."""


class Window(NamedTuple):
    """A span of the calendar, in epoch seconds: `start` ≤ t < `end`."""

    start: int
    end: int


ALWAYS = Window(0, 0)
"""The window of `concurrent`, which knows no calendar."""


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """The limits that watch a request, each in its window. For the same limits and models it is the same object within
    a minute, and equal to itself alone: what is found for it may be kept by it."""

    limits: tuple[Limit, ...]
    windows: tuple[Window, ...]
    by_meter: tuple[tuple[int, tuple[int, ...]], ...]
    """The positions of the limits of each meter that has a window: of the first, and of others."""
    covered: tuple[tuple[int, ...], ...]
    """Positions of targets in the chain: each set that a limit covers."""
    held: Callable[[Sequence[int]], tuple[int, ...]]
    """What each limit holds, of the figures of `_worsts`."""


def picker(places: Sequence[int]) -> Callable[[Sequence[int]], tuple[int, ...]]:
    """What picks the figures at those places. An `itemgetter`, which takes a quarter of the time of a loop, gives them
    as a tuple where it has several."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda figures: tuple([figures[place] for place in places])


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


def reservations(plan: Plan, now: float) -> tuple[Watch, tuple[int, ...]]:
    """What the plan must hold on each of its limits, nano-USD or a count: the worst over the chain, as one target
    answers in the end. Limits that cover no target are not held on."""
    targets, limits = plan.targets, plan.limits
    key = id(limits), targets[0].model.name if len(targets) == 1 else tuple([target.model.name for target in targets])
    kept = _watches.get(key)
    if kept is None or not 0 <= now - kept[0] < 60:
        if len(_watches) >= _WATCHES_KEPT:
            _watches.clear()
        minute = int(now // 60) * 60
        kept = _watches[key] = minute, limits, _watched(plan, minute)
    watch = kept[2]
    return watch, watch.held(_worsts(watch, targets))


_WATCHES_KEPT = 4096
_watches: dict[tuple[int, object], tuple[int, tuple[Limit, ...], Watch]] = {}
"""By identity of the limits, as to compare them takes longer than all that is kept; an entry holds on to its limits, so
that no others can take their place. With the minute, in epoch seconds, as every window begins on a whole one of UTC."""


def _watched(plan: Plan, now: int) -> Watch:
    limits: list[Limit] = []
    worsts: list[int] = []
    groups: list[tuple[int, ...]] = []
    by_meter: dict[Meter, list[int]] = {}
    for limit in plan.limits:
        covered = tuple([n for n, target in enumerate(plan.targets) if covers(limit, target.model.name)])
        if not covered:
            continue
        if covered not in groups:
            groups.append(covered)
        if limit.per is not None:
            by_meter.setdefault(limit.meter, []).append(len(limits))
        limits.append(limit)
        worsts.append(_FIGURE[limit.meter] and _FIGURE[limit.meter] + 2 * groups.index(covered))
    windows = tuple([window(limit, now) for limit in limits])
    places = tuple([(first, tuple(others)) for first, *others in by_meter.values()])
    return Watch(tuple(limits), windows, places, tuple(groups), picker(worsts))


_FIGURE: dict[Meter, int] = {"concurrent": 0, "requests": 0, "usd": 1, "tokens": 2}
"""Where in `_worsts` what a meter holds for the first set of targets is."""


def _worsts(watch: Watch, targets: Sequence[Target]) -> Sequence[int]:
    """One, for the meters that count requests; then the worst nano-USD and tokens of each set of targets."""
    if len(targets) == 1:
        return 1, targets[0].worst_nusd, targets[0].worst_tokens
    worsts = [1]
    for covered in watch.covered:
        worsts += max([targets[n].worst_nusd for n in covered]), max([targets[n].worst_tokens for n in covered])
    return worsts


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


@lru_cache(maxsize=4096)
def duration(seconds: int) -> str:
    """Seconds as OpenAI's rate-limit headers write them: `1s`, `6m0s`, `2h0m5s`."""
    hours, rest = divmod(seconds, 3600)
    minutes, secs = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{secs}s"
    return f"{minutes}m{secs}s" if minutes else f"{secs}s"


def left_lines(watch: Watch, remaining: Sequence[int], second: int) -> str:
    """Header lines of what is left of each meter that has a window: of the limit that has the least left. `remaining`:
    what each limit has left; `second`: of the epoch."""
    lines, of_limits = "", _limit_lines(watch, second)
    for least, others in watch.by_meter:
        for other in others:
            if remaining[other] < remaining[least]:
                least = other
        before, in_usd, after = of_limits[least]
        lines += f"{before}{usd(remaining[least]) if in_usd else remaining[least]}{after}"
    return lines


@lru_cache(maxsize=1024)
def _limit_lines(watch: Watch, second: int) -> list[tuple[str, bool, str]]:
    """What stands before and behind the figure of each limit, and whether it is money: the same for a second."""
    lines = []
    for limit, window in zip(watch.limits, watch.windows, strict=True):
        if limit.meter == "usd":
            lines.append(("x-oxyy-budget-remaining-usd: ", True, "\r\n"))
        else:
            before = f"x-ratelimit-limit-{limit.meter}: {limit.cap}\r\nx-ratelimit-remaining-{limit.meter}: "
            reset = f"x-ratelimit-reset-{limit.meter}: {duration(max(0, window.end - second))}\r\n"
            lines.append((before, False, f"\r\n{reset}"))
    return lines
