"""The text in chat answers: how much there is, and where it stands in events that differ in it alone."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import orjson

from oxyy_proxy.endpoints.base import read_json, utf8, utf8_size

_TEXT = re.compile(rb'"(?:content|reasoning_content|arguments)"\s*:\s*("(?:[^"\\]|\\.)+")').search
"""The first text in a content chunk that is not empty."""


class Shape(NamedTuple):
    """A content chunk around a text of it: `prefix` ends with the quote before, `suffix` begins with the one after.
    `more_bytes` of text are in it besides."""

    prefix: bytes
    suffix: bytes
    more_bytes: int


def shape_of(event: bytes, size_bytes: int) -> Shape | None:
    """The shape of an event of one line with so many UTF-8 bytes of text; None where there is none by which more than
    text could be told."""
    found = _TEXT(event)
    if found is None:
        return None
    text = read_json(found[1])
    prefix, suffix = event[: found.start(1) + 1], event[found.end(1) - 1 :]
    more_bytes = _content_bytes(prefix + suffix)
    # Where it counts by the bytes of its text, this is where its text stands, and any other could stand.
    if more_bytes is None or not isinstance(text, str) or size_bytes - more_bytes != utf8_size(text):
        return None
    return Shape(prefix, suffix, more_bytes)


def _content_bytes(event: bytes) -> int | None:
    """UTF-8 bytes of the text of an event of one line that says nothing but text."""
    chunk = read_json(event[6:-2])
    if not isinstance(chunk, dict) or chunk.get("error") or chunk.get("usage") is not None:
        return None
    return text_bytes_of(chunk, "delta")


def skim_all(shape: Shape, data: bytes, at: int) -> tuple[int, int]:
    """As `skim_each`, at once as far as the last event of this shape."""
    prefix, suffix, more_bytes = shape
    start, end = at + len(prefix), data.rfind(suffix, at)
    if start <= end and data[at:start] == prefix:
        before = len(prefix)
        texts = [event[before:] for event in data[at:end].split(suffix)]
        if data.startswith((suffix + prefix).join(texts), start) and is_plain(text := b" ".join(texts)):
            return end + len(suffix), len(text) + 1 - len(texts) + more_bytes * len(texts)
    return skim_each(shape, data, at)


def skim_each(shape: Shape, data: bytes, at: int) -> tuple[int, int]:
    """How far from `at` there are whole events of this shape, and the UTF-8 bytes of the text in them."""
    prefix, suffix, more_bytes = shape
    before, after, size = len(prefix), len(suffix), 0
    while data[at : (start := at + before)] == prefix:
        end = data.find(b"\n", start) + 2 - after  # no JSON string holds a newline
        if end < start or data[end : end + after] != suffix:
            break
        text = data[start:end]
        if not is_plain(text):
            try:  # with its quotes: what begins and ends with them, and is JSON, is one string
                text = utf8(orjson.loads(data[start - 1 : end + 1]))
            except orjson.JSONDecodeError:
                break
        size += more_bytes + len(text)
        at = end + after
    return at, size


def is_plain(text: bytes) -> bool:
    """Whether the bytes are those of a JSON string, and its text, as they stand."""
    try:
        said = text.decode()
    except UnicodeDecodeError:
        return False
    return said.isprintable() and '"' not in said and "\\" not in said


def text_bytes_of(answer: dict[str, Any], member: str) -> int:
    """UTF-8 bytes of the text that `choices[].message` or `choices[].delta` carries, tool calls and refusals too."""
    size = 0
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        message = choice.get(member) if isinstance(choice, dict) else None
        for name, value in message.items() if isinstance(message, dict) else ():
            if value is not None and name != "role":
                size += len(value) if isinstance(value, str) and value.isascii() else _utf8_size(value)
    return size


def _utf8_size(value: object) -> int:
    """UTF-8 bytes of the strings in a value. A stack: an upstream's JSON may be nested a thousand levels deep."""
    size, stack = 0, [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            size += utf8_size(item)
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(item.values())
    return size
