"""GET /v1/models and /v1/models/{id}: what a team may call, in the OpenAI list format, from the policy alone."""

from __future__ import annotations

from typing import Any

from oxyy_proxy.endpoints.base import Endpoint
from oxyy_proxy.errors import ModelNotFound
from oxyy_proxy.rules.route import callable_models, matches
from oxyy_proxy.rules.types import Policy, Team

NAME = "models"
PATH = "/models"

_CREATED = 1_700_000_000
"""The list format wants a date of creation, which the policy does not know; the same for all."""


def listing(policy: Policy, team: Team, endpoints: tuple[Endpoint, ...]) -> dict[str, Any]:
    """`{"object": "list", "data": [{"id", "object", "created", "owned_by"}]}`: models, then aliases of them."""
    units_of = {endpoint.name: endpoint.units for endpoint in endpoints}
    names = [model.name for model in callable_models(policy, team, units_of)]
    aliases = sorted(
        alias for alias, model in policy.aliases.items() if model in names and not matches(team.deny, alias)
    )
    return {"object": "list", "data": [_entry(name) for name in names + aliases]}


def single(policy: Policy, team: Team, endpoints: tuple[Endpoint, ...], name: str) -> dict[str, Any]:
    """One entry of the listing. Raises ModelNotFound, also for a model that exists but is not this team's."""
    for entry in listing(policy, team, endpoints)["data"]:
        if entry["id"] == name:
            return entry  # type: ignore[no-any-return]
    raise ModelNotFound(
        f"The model {name[:128]!a} does not exist here or is not allowed to this key. GET /v1/models lists what is.",
        param="model",
    )


def _entry(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "oxyy"}
