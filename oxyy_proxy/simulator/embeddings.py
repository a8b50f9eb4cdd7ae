"""POST /v1/embeddings: unit vectors out of a hash of each text."""

from __future__ import annotations

import base64
import hashlib
import math
import struct

from . import tokens
from .answers import Answer, Usage, json_answer
from .asked import Asked, count
from .errors import ApiError

DIMENSIONS, LARGE_DIMENSIONS = 8, 3072
"""Lengths of a vector: short for speed, as the real one where the model's name says large."""
MOST_DIMENSIONS = 16_384
SHAPES = "'input' must be a text, an array of texts, an array of tokens, or an array of arrays of tokens; none empty"

Item = str | list[int]


def answer(asked: Asked) -> Answer:
    """The answer to an embeddings request. Raises ApiError 400."""
    items = _items(asked.body.get("input"))
    dimensions = _dimensions(asked)
    spelled = asked.body.get("encoding_format") or "float"
    if spelled not in ("float", "base64"):
        raise ApiError(400, "'encoding_format' must be float or base64")
    data = []
    for index, item in enumerate(items):
        packed = _packed(asked.model, item, dimensions)
        vector = base64.b64encode(packed).decode() if spelled == "base64" else _unpacked(packed)
        data.append({"object": "embedding", "index": index, "embedding": vector})
    prompt_tokens = sum(len(item) if isinstance(item, list) else max(1, tokens.of_text(item)) for item in items)
    payload: dict[str, object] = {"object": "list", "data": data, "model": asked.model}
    return json_answer(payload, Usage(prompt_tokens), {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens})


def _items(value: object) -> list[Item]:
    if isinstance(value, str) and value:
        return [value]
    if not isinstance(value, list) or not value:
        raise ApiError(400, SHAPES)
    if _are_tokens(value):
        return [value]
    if all(isinstance(item, str) and item for item in value) or all(
        isinstance(item, list) and item and _are_tokens(item) for item in value
    ):
        return value
    raise ApiError(400, SHAPES)


def _are_tokens(value: list[object]) -> bool:
    return all(isinstance(token, int) and not isinstance(token, bool) for token in value)


def _dimensions(asked: Asked) -> int:
    wanted = count(asked.body, "dimensions", least=1)
    if wanted is None:
        return LARGE_DIMENSIONS if "large" in asked.model else DIMENSIONS
    if wanted > MOST_DIMENSIONS:
        raise ApiError(400, f"'dimensions' must be at most {MOST_DIMENSIONS}")
    return wanted


def _packed(model: str, item: Item, dimensions: int) -> bytes:
    """A vector of length 1 as little-endian float32, the form that `base64` asks for."""
    noise = hashlib.shake_256(f"{model} {item!r}".encode()).digest(2 * dimensions)
    raw = struct.unpack(f"<{dimensions}h", noise)
    norm = math.sqrt(sum(x * x for x in raw)) or 1.0
    return struct.pack(f"<{dimensions}f", *(x / norm for x in raw))


def _unpacked(packed: bytes) -> list[float]:
    """The very same numbers, so that both spellings agree."""
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))
