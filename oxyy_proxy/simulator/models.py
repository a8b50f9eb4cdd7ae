"""GET /v1/models and /v1/models/{id}: the models of the price list."""

from __future__ import annotations

from collections.abc import Iterable

from .chat import CREATED
from .errors import ApiError


def listed(models: Iterable[str]) -> dict[str, object]:
    """The answer to GET /v1/models."""
    return {"object": "list", "data": [_entry(model) for model in models]}


def one(model: str, models: Iterable[str]) -> dict[str, object]:
    """The answer to GET /v1/models/{id}. Raises ApiError 404."""
    if model not in models:
        raise unknown(model)
    return _entry(model)


def unknown(model: str) -> ApiError:
    """The refusal of a model that is not in the price list, or does not serve this endpoint."""
    return ApiError(404, f"The model `{model}` does not exist or does not serve this endpoint", "model_not_found")


def _entry(model: str) -> dict[str, object]:
    return {"id": model, "object": "model", "created": CREATED, "owned_by": "oxyy"}
