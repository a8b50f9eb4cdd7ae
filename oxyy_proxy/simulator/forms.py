"""Reads multipart/form-data into the shape that JSON would have had, and files."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import aiohttp
import orjson
from aiohttp.base_protocol import BaseProtocol

from .errors import ApiError
from .uploads import File

NUMBERS = frozenset({"n", "duration"})
FLAGS = frozenset({"stream"})
"""Fields that JSON writes as numbers and as true or false: a form has nothing but text."""


@dataclass(frozen=True, slots=True)
class Form:
    """The text fields, with their values as JSON would have them, and the files in order."""

    fields: dict[str, object]
    files: tuple[File, ...]


def is_form(content_type: str) -> bool:
    """Whether a body of this type is a form."""
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


async def read(raw: bytes, content_type: str) -> Form:
    """The form in these bytes. Raises ApiError 400."""
    fields: dict[str, object] = {}
    files: list[File] = []
    try:
        reader = aiohttp.MultipartReader({"Content-Type": content_type}, _stream(raw))
        async for part in reader:
            if not isinstance(part, aiohttp.BodyPartReader) or part.name is None:
                raise ApiError(400, "Each part of the form needs a name", "invalid_multipart")
            data = bytes(await part.read())
            if part.filename is not None:
                files.append(File(part.name, data, part.filename, part.headers.get("Content-Type")))
            else:
                _put(fields, part.name, data)
    except (ValueError, RuntimeError, aiohttp.ClientError, aiohttp.http.HttpProcessingError) as error:
        raise ApiError(400, f"The body is not valid multipart/form-data: {error}", "invalid_multipart") from None
    return Form(fields, tuple(files))


def _put(fields: dict[str, object], name: str, data: bytes) -> None:
    """Adds a text; those whose names end in `[]` make an array."""
    value = _value(name, data.decode())
    if not name.endswith("[]"):
        fields[name] = value
        return
    array = fields.setdefault(name[:-2], [])
    if isinstance(array, list):
        array.append(value)


def _value(name: str, text: str) -> object:
    if name in NUMBERS and text.isdecimal():
        return int(text)
    if name in FLAGS and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if name == "simulate":
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise ApiError(400, f"'simulate' is not valid JSON: {error}") from None
    return text


def _stream(raw: bytes) -> aiohttp.StreamReader:
    """A stream that holds all of it: its limit is as high, for there is no connection to hold back."""
    loop = asyncio.get_running_loop()
    stream = aiohttp.StreamReader(BaseProtocol(loop), len(raw) + 1, loop=loop)
    stream.feed_data(raw)
    stream.feed_eof()
    return stream
