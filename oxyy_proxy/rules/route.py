"""Which models may answer: aliases, allowlists and chains (README, "Policies" and "Failover")."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from oxyy_proxy.errors import InvalidValue, ModelNotAllowed, ModelNotFound, ModelNotPriced
from oxyy_proxy.rules.types import Model, Policy, Principal, Team

Bases = tuple[frozenset[str], ...]
"""Sets of price units by any of which an endpoint can be charged."""

_SHOWN_CHARS = 128
"""Of a name that a client sent, in an error."""

_BACKOFF_FIRST_S = 0.1
_BACKOFF_MOST_S = 2.0


def matches(patterns: Iterable[str], name: str) -> bool:
    """Whether one of the globs names this model; case counts."""
    for pattern in patterns:  # noqa: SIM110 - walked for every request: a generator doubles its cost
        if pattern == name or fnmatchcase(name, pattern):
            return True
    return False


def allowed(team: Team, name: str) -> bool:
    """Nothing is allowed that is not named; deny wins."""
    return matches(team.allow, name) and not matches(team.deny, name)


def serves(model: Model, endpoint: str, bases: Bases) -> bool:
    """Whether the model is offered for the endpoint and has prices by which it can be charged."""
    return endpoint in model.endpoints and any(units <= model.prices.keys() for units in bases)


def chain(
    policy: Policy, principal: Principal, endpoint: str, bases: Bases, requested: str | None
) -> tuple[str, tuple[Model, ...]]:
    """The name that was asked for, and the models to try in order; the first is what was asked for.

    A fallback that is not allowed to the team or does not serve the endpoint is skipped. Raises InvalidValue (no model
    and no default), ModelNotFound, ModelNotAllowed, ModelNotPriced.
    """
    requested = requested or policy.default_models.get(endpoint)
    if requested is None:
        raise InvalidValue("'model' is missing. Name one of the models that GET /v1/models lists.", param="model")
    team = principal.team
    name = policy.aliases.get(requested, requested)
    model = policy.models.get(name)
    if model is None:
        raise ModelNotFound(
            f"The model {requested[:_SHOWN_CHARS]!a} does not exist here. GET /v1/models lists what this key may call.",
            param="model",
        )
    if not allowed(team, name) or matches(team.deny, requested):
        raise ModelNotAllowed(
            f"The model {requested[:_SHOWN_CHARS]!a} is not allowed to team {team.name}. GET /v1/models lists what is; "
            "ask your platform team to add it to the team's policy.",
            param="model",
        )
    if not serves(model, endpoint, bases):
        raise ModelNotPriced(
            f"The model {requested[:_SHOWN_CHARS]!a} has no price for {endpoint}. Call it where it is offered "
            f"({', '.join(sorted(model.endpoints))}), or ask your platform team to price it in models.yaml.",
            param="model",
        )
    following = (policy.models.get(fallback) for fallback in team.fallbacks.get(name, model.fallbacks))
    fallbacks = [m for m in following if m and m is not model and allowed(team, m.name) and serves(m, endpoint, bases)]
    return requested, (model, *fallbacks)


def callable_models(policy: Policy, team: Team, bases_of: Mapping[str, Bases]) -> list[Model]:
    """The models that a team may call on at least one endpoint, by name. `bases_of`: endpoint -> how it is charged."""
    return sorted(
        (
            model
            for model in policy.models.values()
            if allowed(team, model.name) and any(serves(model, name, bases) for name, bases in bases_of.items())
        ),
        key=lambda model: model.name,
    )


def following(
    count: int, at: int, tried: int, attempts: int, *, ambiguous: bool, client_retries: bool
) -> Sequence[int]:
    """Who may be tried after target `at` of `count` has failed, in order, `tried` calls having been made of `attempts`.
    The chain is walked once. A chain of one is tried once more after a definite failure, unless the client itself is
    trying again; never after an ambiguous one."""
    if tried >= attempts:
        return ()
    if count > 1:
        return range(at + 1, count)
    return (0,) if tried == 1 and not ambiguous and not client_retries else ()


def backoff_s(tried: int, jitter: float) -> float:
    """Full jitter: anywhere up to a bound that doubles with each attempt. `jitter` is random in [0, 1)."""
    return jitter * min(_BACKOFF_MOST_S, _BACKOFF_FIRST_S * 2.0 ** (tried - 1))
