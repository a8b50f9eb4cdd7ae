"""Files that came with a request, as parts of a form or as base64 in JSON, and what is remembered of them."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import ApiError

BASE64_FIELDS = {"image_base64": "image", "mask_base64": "mask", "file_base64": "file"}
"""Field of a JSON body -> the part of a form that it stands for."""


@dataclass(frozen=True, slots=True)
class File:
    """One file. `part` is the name of its form part or field; the other names are those its part gives."""

    part: str
    data: bytes
    filename: str | None = None
    content_type: str | None = None

    @property
    def role(self) -> str:
        """What it is for: `image`, `mask` or `file`, however its part was spelled."""
        return BASE64_FIELDS.get(self.part, self.part.partition("[")[0])


@dataclass(frozen=True, slots=True)
class Upload:
    """What is remembered of a file: `sha256` (hex) and size, not its bytes."""

    endpoint: str
    part: str
    filename: str | None
    content_type: str | None
    size_bytes: int
    sha256: str


def upload(endpoint: str, file: File) -> Upload:
    """The record of this file."""
    digest = hashlib.sha256(file.data).hexdigest()
    return Upload(endpoint, file.part, file.filename, file.content_type, len(file.data), digest)


def of_base64(body: dict[str, object]) -> Iterator[File]:
    """The files in the fields BASE64_FIELDS, each a text or an array of texts. Raises ApiError 400."""
    for field in BASE64_FIELDS:
        value = body.get(field)
        if value is None:
            continue
        for text in value if isinstance(value, list) else [value]:
            yield File(field, _decoded(field, text))


def _decoded(field: str, text: object) -> bytes:
    if not isinstance(text, str) or not text:
        raise ApiError(400, f"'{field}' must be base64 text")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"'{field}' is not base64: {error}") from None
