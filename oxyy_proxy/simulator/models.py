"""GET /v1/models and /v1/models/{id}: the models of the price list."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from .chat import CREATED
from .errors import ApiError
from .prices import ModelPrice

Models = Mapping[str, ModelPrice]

OWNERS: Mapping[str, tuple[str, ...]] = {
    "openai": ("gpt-", "chatgpt-", "o1", "o3", "o4", "dall-e", "text-embedding-", "whisper", "tts-", "sora"),
    "google": ("gemini", "gemma", "veo", "imagen"),
    "anthropic": ("claude",),
    "meta": ("llama",),
    "deepseek": ("deepseek",),
    "mistral": ("mistral", "mixtral", "codestral"),
    "xai": ("grok",),
    "alibaba": ("qwen", "wan"),
    "blackforest-ai": ("flux",),
    "elevenlabs": ("eleven", "scribe"),
    "bytedance": ("doubao", "seedance", "seedream"),
    "kuaishou": ("kling",),
    "runway": ("runway", "gen-"),
}
"""The documentation's list of makers -> how the names of their models begin."""

CONTEXT_WINDOWS: Mapping[str, int] = {"openai": 400_000, "google": 1_048_576, "anthropic": 200_000, "xai": 256_000}
CONTEXT_WINDOW = 128_000
"""Of chat models, in tokens; that of one maker's is the same for all of them."""

CREATED_WITHIN_S = 2 * 365 * 86_400


def listed(models: Models) -> dict[str, object]:
    """The answer to GET /v1/models."""
    return {"object": "list", "data": [_entry(model, price) for model, price in models.items()]}


def one(model: str, models: Models) -> dict[str, object]:
    """The answer to GET /v1/models/{id}. Raises ApiError 404."""
    if model not in models:
        raise unknown(model)
    return _entry(model, models[model])


def unknown(model: str) -> ApiError:
    """The refusal of a model that is not in the price list, or does not serve this endpoint."""
    return ApiError(404, f"The model `{model}` does not exist or does not serve this endpoint", "model_not_found")


def _entry(model: str, price: ModelPrice) -> dict[str, object]:
    owner = next((maker for maker, starts in OWNERS.items() if model.startswith(starts)), "oxyy")
    age_s = int.from_bytes(hashlib.blake2b(model.encode(), digest_size=4).digest(), "big") % CREATED_WITHIN_S
    entry: dict[str, object] = {"id": model, "object": "model", "created": CREATED + age_s, "owned_by": owner}
    if "chat" in price.endpoints:
        entry["context_window"] = CONTEXT_WINDOWS.get(owner, CONTEXT_WINDOW)
    return entry
