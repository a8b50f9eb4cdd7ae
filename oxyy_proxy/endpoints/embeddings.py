"""POST /v1/embeddings: always whole JSON, priced by input tokens."""

from __future__ import annotations

from typing import Any

from oxyy_proxy.endpoints.base import (
    Answer,
    Ask,
    Endpoint,
    model_of,
    optional,
    optional_int,
    read_object,
    usage_of,
    utf8_size,
)
from oxyy_proxy.errors import InvalidValue
from oxyy_proxy.rules.jsonbody import JsonBody
from oxyy_proxy.rules.price import held_tokens, likely_tokens
from oxyy_proxy.rules.types import Model, PartTokens, Usage


class EmbeddingsAsk(Ask):
    """An embeddings request. `input`: a string, strings, token ids, or arrays of token ids."""

    __slots__ = ("_body", "_text_bytes", "_token_ids", "model")

    def __init__(self, raw: bytes) -> None:
        """Raises InvalidJson or InvalidValue."""
        self._body = JsonBody(raw)
        members = self._body.members
        self.model = model_of(members)
        optional(members, "encoding_format", str, "a string")
        optional_int(members, "dimensions", least=1)
        self._text_bytes, self._token_ids = _measure(members.get("input"))

    def worst(self, model: Model, parts: PartTokens) -> Usage:
        return Usage(input_tokens=held_tokens(self._text_bytes) + self._token_ids)

    def body_for(self, model: Model) -> bytes:
        return self._body.raw if model.name == self.model else self._body.replaced({"model": model.name})

    def read(self, body: bytes, model: Model, parts: PartTokens) -> Answer:
        return Answer(usage_of(read_object(body).get("usage")), 0)

    def likely_usage(self, model: Model, parts: PartTokens, output_bytes: int) -> Usage:
        return Usage(input_tokens=max(1, likely_tokens(self._text_bytes) + self._token_ids), source="estimated")


def _measure(value: Any) -> tuple[int, int]:
    """UTF-8 bytes of text (at least one token's worth each) and the number of token ids in `input`."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not items:
        raise _invalid()
    if all(type(item) is int for item in items):
        return 0, len(items)
    text_bytes = token_ids = 0
    for item in items:
        if isinstance(item, str):
            text_bytes += max(2, utf8_size(item))
        elif isinstance(item, list) and item and all(type(token) is int for token in item):
            token_ids += len(item)
        else:
            raise _invalid()
    return text_bytes, token_ids


def _invalid() -> InvalidValue:
    return InvalidValue(
        "'input' must be a string, a non-empty array of strings, or token ids as an array (of arrays) of integers.",
        param="input",
    )


ENDPOINT = Endpoint(
    name="embeddings",
    path="/embeddings",
    bases=(frozenset({"input"}),),
    parse=EmbeddingsAsk,
)
