"""Figures for people: what a team has left (`GET /v1/usage`), and spend by team, model, day … for the command line."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from oxyy_proxy.rules.budget import Standing
from oxyy_proxy.rules.price import usd
from oxyy_proxy.rules.types import Principal


def team_usage(principal: Principal, standings: Sequence[Standing]) -> dict[str, Any]:
    """`{"team", "limits": [{"meter", "per", "models", "key", "cap", "spent", "held", "remaining", "resets_at"}]}`; usd
    figures are decimal strings, the others integers; `resets_at` is ISO 8601 UTC, null for `concurrent`."""
    return {"team": principal.team.name, "limits": [_limit(standing) for standing in standings]}


def _limit(standing: Standing) -> dict[str, Any]:
    limit = standing.limit
    figures = {
        "cap": limit.cap,
        "spent": standing.spent,
        "held": standing.held,
        "remaining": standing.remaining,
    }
    shown: dict[str, Any] = {name: usd(value) for name, value in figures.items()} if limit.meter == "usd" else figures
    return {
        "meter": limit.meter,
        "per": limit.per,
        "models": list(limit.models) or None,
        "key": limit.key,
        **shown,
        "resets_at": None if limit.per is None else datetime.fromtimestamp(standing.window.end, UTC).isoformat(),
    }
