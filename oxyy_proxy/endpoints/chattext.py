"""The text in chat answers: how much there is, and where it stands in events that differ in it alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import orjson

from oxyy_proxy.endpoints.base import read_json, utf8, utf8_size

_TEXT = rb'%b"\s*:\s*("(?!")[^"\\]*(?:\\.[^"\\]*)*")'
_CONTENT = re.compile(_TEXT % b"content").search
_ARGUMENTS = re.compile(_TEXT % b"arguments").search
"""The first text in a content chunk that is not empty. Two expressions, as one that begins with the same bytes wherever
it matches is found in a fraction of the time."""

_PLAIN = bytes(char if 0x20 <= char < 0x7F and char not in b'"\\' else char ^ 1 for char in range(256))
"""A table by which bytes are translated to themselves where they are ASCII that stands in JSON as it is."""


@dataclass(slots=True)
class Shape:
    """A content chunk around a text of it: `prefix` ends with the quote before, `suffix` begins with the one after.
    `more_bytes` of text are in it besides; `around_bytes`: both lengths."""

    prefix: bytes
    suffix: bytes
    more_bytes: int
    around_bytes: int


def shape_of(event: bytes, size_bytes: int) -> Shape | None:
    """The shape of an event of one line with so many UTF-8 bytes of text; None where there is none by which more than
    text could be told."""
    found = _CONTENT(event) or _ARGUMENTS(event)  # reasoning_content as well
    if found is None:
        return None
    text = read_json(found[1])
    prefix, suffix = event[: found.start(1) + 1], event[found.end(1) - 1 :]
    more_bytes = _content_bytes(prefix + suffix)
    # Where it counts by the bytes of its text, this is where its text stands, and any other could stand.
    if more_bytes is None or not isinstance(text, str) or size_bytes - more_bytes != utf8_size(text):
        return None
    return Shape(prefix, suffix, more_bytes, len(prefix) + len(suffix))


def _content_bytes(event: bytes) -> int | None:
    """UTF-8 bytes of the text of an event of one line that says nothing but text."""
    chunk = read_json(event[6:-2])
    if not isinstance(chunk, dict) or chunk.get("error") or chunk.get("usage") is not None:
        return None
    return text_bytes_of(chunk, "delta")


def skim_all(shape: Shape, data: bytes, at: int) -> tuple[int, int]:
    """As `skim_each`, at once as far as the last event of this shape."""
    prefix, suffix = shape.prefix, shape.suffix
    end = data.rfind(suffix, at)
    if end < 0 or data[at : at + len(prefix)] != prefix:
        return at, 0
    events = data[at:end].split(suffix)
    count = len(events)
    texts = b" ".join(map(bytes.removeprefix, events, repeat(prefix)))
    size = len(texts) + 1 - count
    if at + size + count * shape.around_bytes == end + len(suffix) and is_plain(texts):
        return end + len(suffix), size + count * shape.more_bytes
    return skim_each(shape, data, at)


def skim_each(shape: Shape, data: bytes, at: int) -> tuple[int, int]:
    """How far from `at` there are whole events of this shape, and the UTF-8 bytes of the text in them."""
    prefix, suffix = shape.prefix, shape.suffix
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
        size += shape.more_bytes + len(text)
        at = end + after
    return at, size


def is_plain(text: bytes) -> bool:
    """Whether the bytes are those of a JSON string, and its text, as they stand."""
    if text.translate(_PLAIN) == text:
        return True
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
