"""A JSON request body, read once by one parser that also knows where each top-level member stands.

The body goes upstream byte for byte save for what must change, so members are spliced in place. One parser reads
and locates: with two, a key written twice or as `mod\\u0065l` could be one model to us and another to the upstream.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from oxyy_proxy.errors import InvalidJson

MAX_DEPTH = 128
"""Nesting that is refused beyond; parsers upstream differ above it (DESIGN 4)."""

_SPACE = re.compile(r"[ \t\n\r]*")
_STRINGS_AND_BRACKETS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidJson(f"The body contains {name}, which is not JSON. Send a finite number or null.")


_value_at = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode
"""(text, index) -> (value, index after it); C speed, and the only parser that request bodies meet."""


class JsonBody:
    """A JSON object: `members` holds the decoded top-level values; `replaced` gives the bytes with some changed."""

    __slots__ = ("_spans", "_text", "members", "raw")

    def __init__(self, raw: bytes) -> None:
        """Parse `raw`. Raises InvalidJson: not UTF-8, not one JSON object, NaN, too deep, a top-level key twice."""
        self.raw = raw
        try:
            self._text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidJson(f"The body is not UTF-8 (byte {error.start}). Send JSON encoded as UTF-8.") from None
        self.members: dict[str, Any] = {}
        self._spans: dict[str, tuple[int, int]] = {}
        try:
            self._parse()
        except json.JSONDecodeError as error:
            raise InvalidJson(f"The body is not valid JSON: {error}. Check it with a JSON parser.") from None
        except RecursionError:
            raise _too_deep() from None
        except ValueError as error:  # a number of more digits than Python converts
            raise InvalidJson(f"The body holds a number that cannot be read: {error}") from None
        if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth(raw) > MAX_DEPTH:
            raise _too_deep()

    def _parse(self) -> None:
        """Walk the top level; each value is decoded by the C scanner, which also says where it ends."""
        text = self._text
        at = _skip(text, 0)
        if text[at : at + 1] != "{":
            raise InvalidJson('The body must be one JSON object, such as {"model": …}.')
        at = _skip(text, at + 1)
        if text[at : at + 1] == "}":
            self._require_end(at + 1)
            return
        while True:
            if text[at : at + 1] != '"':
                raise json.JSONDecodeError("Expecting a property name in double quotes", text, at)
            key, at = _value_at(text, at)
            at = _skip(text, at)
            if text[at : at + 1] != ":":
                raise json.JSONDecodeError("Expecting ':'", text, at)
            start = _skip(text, at + 1)
            value, end = _value_at(text, start)
            if key in self.members:
                raise InvalidJson(f"The body has the key {key!a} twice. Keep one of them.")
            self.members[key] = value
            self._spans[key] = (start, end)
            at = _skip(text, end)
            delimiter = text[at : at + 1]
            if delimiter == "}":
                self._require_end(at + 1)
                return
            if delimiter != ",":
                raise json.JSONDecodeError("Expecting ',' or '}'", text, at)
            at = _skip(text, at + 1)

    def _require_end(self, at: int) -> None:
        if _skip(self._text, at) != len(self._text):
            raise json.JSONDecodeError("Extra data after the object", self._text, at)

    def replaced(self, changes: Mapping[str, Any]) -> bytes:
        """The body with these top-level members set; every other byte stays as it came."""
        text = self._text
        present = sorted((self._spans[key], key) for key in changes if key in self._spans)
        pieces, at = [], 0
        for (start, end), key in present:
            pieces += [text[at:start], _dumps(changes[key])]
            at = end
        absent = [key for key in changes if key not in self._spans]
        if absent:
            close = text.rindex("}")
            pieces.append(text[at:close].rstrip(" \t\r\n"))
            members = ",".join(f"{_dumps(key)}:{_dumps(changes[key])}" for key in absent)
            pieces.append(("," if self.members else "") + members)
            at = close
        pieces.append(text[at:])
        return "".join(pieces).encode("utf-8")


def _dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _too_deep() -> InvalidJson:
    return InvalidJson(f"The body is nested deeper than {MAX_DEPTH} levels. Flatten it.")


def _depth(raw: bytes) -> int:
    """The deepest nesting of `raw`, which is known to be valid JSON."""
    depth = deepest = 0
    for match in _STRINGS_AND_BRACKETS.finditer(raw):
        byte = raw[match.start()]
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest
