"""Models, teams and policies in a few words, for the tests of rules and endpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, tzinfo
from typing import Any

from oxyy_proxy.rules.types import Key, Limit, Meter, Model, Per, Policy, Price, Principal, Team

CHAT = frozenset({"input", "output"})
"""The units that chat is charged by."""


def model(name: str, *, fallbacks: Iterable[str] = (), endpoints: Iterable[str] = ("chat",), **more: Any) -> Model:
    """A model with prices for chat."""
    more.setdefault("prices", {"input": Price(1_000_000), "output": Price(1_000_000)})
    return Model(name=name, endpoints=frozenset(endpoints), fallbacks=tuple(fallbacks), **more)


def team(
    *,
    allow: Iterable[str] = ("*",),
    deny: Iterable[str] = (),
    limits: Iterable[Limit] = (),
    fallbacks: Mapping[str, tuple[str, ...]] | None = None,
) -> Team:
    """The team `search`."""
    return Team("search", "CC-1", (), tuple(allow), tuple(deny), tuple(limits), fallbacks or {})


def principal(of: Team, key_id: str = "search-prod") -> Principal:
    """One of the team's keys."""
    return Principal(of, Key(key_id, "0" * 64))


def policy(*models: Model, aliases: Mapping[str, str] | None = None, **more: Any) -> Policy:
    """A policy with these models."""
    by_name = {one.name: one for one in models}
    return Policy(version="1", models=by_name, teams={}, keys={}, aliases=aliases or {}, **more)


def limit(meter: Meter = "usd", per: Per | None = "month", cap: int = 100, zone: tzinfo = UTC, **more: Any) -> Limit:
    """A limit of the team `search`; `team=None` makes it the organisation's."""
    more.setdefault("team", "search")
    return Limit(id=f"{meter}/{per}/{more}", meter=meter, per=per, cap=cap, zone=zone, **more)
