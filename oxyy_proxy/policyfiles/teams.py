"""The files of the teams -> teams and their keys."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, time, timedelta, tzinfo
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from oxyy_proxy.policyfiles.document import Loc
from oxyy_proxy.policyfiles.limits import build_limits, check_globs
from oxyy_proxy.policyfiles.models import Catalogue, check_chain, check_model
from oxyy_proxy.policyfiles.schema import ORGANISATION, AccessSpec, KeySpec, TeamSpec, remaining
from oxyy_proxy.policyfiles.source import Source
from oxyy_proxy.rules.types import Key, Principal, Team


def build_teams(
    sources: Iterable[Source[TeamSpec]], catalogue: Catalogue, zone: tzinfo, now: float | None
) -> tuple[dict[str, Team], dict[str, Principal]]:
    """Teams by name, and principals by the SHA-256 of their key. `zone` is the gateway's; `now` is epoch seconds."""
    teams: dict[str, Team] = {}
    principals: dict[str, Principal] = {}
    first_use: dict[str, str] = {}
    for source in sources:
        if source.spec is None:
            continue
        team = _team(source, source.spec, catalogue, zone)
        _check_keys(source, source.spec.keys, first_use)
        teams[team.name] = team
        principals |= {key.sha256: Principal(team, key) for key in team.keys}
        for index, spec in remaining(source.spec.keys):
            expires_at = _expires_at(spec, zone)
            if now is not None and expires_at is not None and expires_at <= now:
                source.warn(("keys", index, "expires"), f"the key '{spec.id}' has expired; it is refused")
    return teams, principals


def _team(source: Source[TeamSpec], spec: TeamSpec, catalogue: Catalogue, zone: tzinfo) -> Team:
    stem = PurePosixPath(source.file).stem
    if spec.team == ORGANISATION:
        source.error(("team",), f"'{ORGANISATION}' is what limits of gateway.yaml are called; choose another name")
    elif spec.team != stem:
        source.error(("team",), f"expected '{stem}', as the file is called, got '{spec.team}'")
    check_globs(source, ("models", "allow"), spec.models.allow, catalogue.names, catalogue.aliases)
    for name, chain in spec.fallbacks.items():
        loc: Loc = ("fallbacks", name)
        check_model(source, loc, name, catalogue, key=True)
        check_chain(source, loc, name, chain, catalogue)
        _check_allowed(source, loc, chain, spec.models, catalogue)
    return Team(
        name=spec.team,
        cost_center=spec.cost_center,
        keys=tuple(Key(key.id, key.sha256, _expires_at(key, zone)) for _, key in remaining(spec.keys)),
        allow=tuple(spec.models.allow),
        deny=tuple(spec.models.deny),
        limits=build_limits(
            source, spec.limits, zone=zone, models=catalogue.names, aliases=catalogue.aliases, team=spec.team
        ),
        fallbacks={name: tuple(chain) for name, chain in spec.fallbacks.items()},
    )


def _check_allowed(
    source: Source[TeamSpec], loc: Loc, chain: Iterable[str], access: AccessSpec, catalogue: Catalogue
) -> None:
    for index, name in enumerate(chain):
        allowed = any(fnmatchcase(name, glob) for glob in access.allow)
        denied = any(fnmatchcase(name, glob) for glob in access.deny)
        if name in catalogue.models and (denied or not allowed):
            source.warn((*loc, index), f"'{name}' is never used here: the team may not call it")


def _check_keys(source: Source[TeamSpec], keys: Iterable[KeySpec], first_use: dict[str, str]) -> None:
    """Reports ids given twice in a team and hashes given twice anywhere; `first_use`: hash -> where it stands."""
    ids: dict[str, int] = {}
    for index, key in remaining(keys):
        loc: Loc = ("keys", index)
        if key.id in ids:
            first = source.where(("keys", ids[key.id], "id"))
            source.error((*loc, "id"), f"the key id '{key.id}' is already used in {first}")
        if key.sha256 in first_use:
            source.error((*loc, "sha256"), f"the same key as in {first_use[key.sha256]}; every key belongs to one team")
        ids.setdefault(key.id, index)
        first_use.setdefault(key.sha256, source.where((*loc, "sha256")))


def _expires_at(key: KeySpec, zone: tzinfo) -> float | None:
    """The key works through its last day: the midnight after it, in the gateway's zone."""
    if key.expires is None:
        return None
    return datetime.combine(key.expires + timedelta(days=1), time(), zone).timestamp()
