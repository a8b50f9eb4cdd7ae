"""Limits as written -> `types.Limit`, for the organisation and for teams alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import tzinfo
from decimal import Decimal
from fnmatch import fnmatchcase

from oxyy_proxy.policyfiles.document import Loc
from oxyy_proxy.policyfiles.schema import ORGANISATION, LimitSpec, Spec, remaining
from oxyy_proxy.policyfiles.source import Source, suggestion
from oxyy_proxy.policyfiles.values import MAX_COUNT, MAX_USD, scaled, shown
from oxyy_proxy.rules.types import NUSD_PER_USD, Limit

KnownModels = frozenset[str] | None
"""The names in models.yaml; None if that file says nothing usable, and nothing about models can be checked."""


def build_limits(
    source: Source[Spec],
    specs: Iterable[LimitSpec],
    *,
    zone: tzinfo,
    models: KnownModels,
    aliases: Mapping[str, str],
    team: str | None = None,
) -> tuple[Limit, ...]:
    """The limits of one owner, `team` or None for the organisation; reports to `source` what is wrong with them."""
    found: dict[str, Limit] = {}
    first_at: dict[str, str] = {}
    keys = source.items("keys", "id")
    for index, spec in remaining(specs):
        loc: Loc = ("limits", index)
        _check_fields(source, loc, spec, team=team, keys=keys)
        check_globs(source, (*loc, "models"), spec.models or (), models, aliases)
        limit = Limit(
            id=_id(spec, team),
            meter=spec.meter,
            per=spec.per,
            cap=_cap(source, loc, spec),
            zone=spec.timezone or zone,
            team=team,
            key=spec.key,
            models=tuple(spec.models or ()),
        )
        if limit.id in found:
            source.error(loc, f"the same limit as in {first_at[limit.id]}, '{limit.id}'; keep one of the two")
        found.setdefault(limit.id, limit)
        first_at.setdefault(limit.id, source.where(loc))
    return tuple(found.values())


def check_globs(
    source: Source[Spec],
    loc: Loc,
    globs: Iterable[str],
    models: KnownModels,
    aliases: Mapping[str, str],
) -> None:
    """Warns of each name or pattern that no model has."""
    if models is None:
        return
    for index, glob in enumerate(globs):
        if any(fnmatchcase(name, glob) for name in models):
            continue
        hint = f"; '{glob}' is an alias, name '{aliases[glob]}'" if glob in aliases else suggestion(glob, models)
        source.warn((*loc, index), f"'{glob}' matches no model of models.yaml{hint}")


def _check_fields(
    source: Source[Spec],
    loc: Loc,
    spec: LimitSpec,
    *,
    team: str | None,
    keys: frozenset[str] | None,
) -> None:
    if spec.meter == "concurrent" and spec.per is not None:
        source.error((*loc, "per"), "a concurrent limit has no 'per': it counts what is in flight", key=True)
    if spec.meter != "concurrent" and spec.per is None:
        source.error(loc, "the field 'per' is missing; expected one of minute, hour, day, month")
    if spec.key is not None and team is None:
        source.error(
            (*loc, "key"), "a limit of the organisation has no 'key'; limit the key in its team's file", key=True
        )
    elif spec.key is not None and keys is not None and spec.key not in keys:
        allowed = ", ".join(sorted(keys)) or "none, the team has no keys"
        source.error((*loc, "key"), f"'{spec.key}' is not a key of this team; allowed: {allowed}")


def _cap(source: Source[Spec], loc: Loc, spec: LimitSpec) -> int:
    """nano-USD for `usd`, else a count; 0 if it is wrong, which was then reported."""
    loc = (*loc, "cap")
    if spec.meter == "usd":
        nusd = scaled(spec.cap, NUSD_PER_USD, MAX_USD)
        if nusd is None:
            limits = f"an amount of USD from 0 to {MAX_USD} with at most 9 decimals"
            source.error(loc, f"expected {limits}, got {shown(spec.cap)}")
        return nusd or 0
    count = scaled(spec.cap, 1, Decimal(MAX_COUNT))
    if count is None:
        source.error(loc, f"expected a whole number of {spec.meter} from 0 to {MAX_COUNT}, got {shown(spec.cap)}")
    return count or 0


def _id(spec: LimitSpec, team: str | None) -> str:
    """Everything that says what is counted, so that a changed cap or zone keeps what is spent."""
    parts = [team or ORGANISATION, f"{spec.meter}/{spec.per}" if spec.per else spec.meter]
    if spec.models:
        parts.append("models=" + ",".join(sorted(set(spec.models))))
    if spec.key:
        parts.append(f"key={spec.key}")
    return " ".join(parts)
