"""GET /v1/models and /v1/models/{id}: what a team may call, in the OpenAI list format. Names come from the policy; what
else the upstream says of a model (`created`, `owned_by` …) is added where it is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oxyy_proxy.endpoints.base import Endpoint
from oxyy_proxy.errors import ModelNotFound
from oxyy_proxy.rules.route import callable_models, matches
from oxyy_proxy.rules.types import Policy, Team

NAME = "models"
PATH = "/models"

Described = Mapping[str, Mapping[str, Any]]
"""The upstream's own entry for each model that it lists."""

_CREATED = 1_700_000_000
"""The list format wants a date of creation; this one where the upstream's is not known."""


def listing(policy: Policy, team: Team, endpoints: tuple[Endpoint, ...], described: Described) -> dict[str, Any]:
    """`{"object": "list", "data": [{"id", "object", "created", "owned_by", …}]}`: models, then aliases of them."""
    bases_of = {endpoint.name: endpoint.bases for endpoint in endpoints}
    names = [model.name for model in callable_models(policy, team, bases_of)]
    data = [_entry(name, described.get(name, {})) for name in names]
    aliases = sorted(
        alias for alias, model in policy.aliases.items() if model in names and not matches(team.deny, alias)
    )
    data += [_entry(alias, described.get(policy.aliases[alias], {})) for alias in aliases]
    return {"object": "list", "data": data}


def single(
    policy: Policy, team: Team, endpoints: tuple[Endpoint, ...], described: Described, name: str
) -> dict[str, Any]:
    """One entry of the listing. Raises ModelNotFound, also for a model that exists but is not this team's."""
    for entry in listing(policy, team, endpoints, described)["data"]:
        if entry["id"] == name:
            return entry  # type: ignore[no-any-return]
    raise ModelNotFound(
        f"The model {name[:128]!a} does not exist here or is not allowed to this key. GET /v1/models lists what is.",
        param="model",
    )


def _entry(name: str, described: Mapping[str, Any]) -> dict[str, Any]:
    return {"created": _CREATED, "owned_by": "oxyy", **described, "id": name, "object": "model"}
