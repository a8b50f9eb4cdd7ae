"""YAML 1.2 text -> plain data that remembers where every key and value stands.

The text is composed to nodes only, never constructed to objects: a number keeps its digits and becomes a `Decimal`,
so money does not pass through a float, and every duplicate key is found, not only the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import lru_cache

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, StreamMark, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

Loc = tuple[str | int, ...]
"""The way to a value: keys of mappings and indexes of lists, from the root."""

Value = dict[str, "Value"] | list["Value"] | str | int | Decimal | bool | date | None

MAX_DEPTH = 32
MAX_VALUES = 200_000
MAX_NUMBER_CHARS = 40
CACHED_DOCUMENTS = 4096

_TAGS = "tag:yaml.org,2002:"
_INT_BASES = {"0x": 16, "0o": 8, "0b": 2}


@dataclass(frozen=True, slots=True)
class Position:
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Document:
    """One parsed file. `problems` stand in the way of using it; `data` is what could be read in spite of them,
    `usable` is False where that is nothing at all."""

    data: Value = None
    keys: Mapping[Loc, Position] = field(default_factory=dict)
    values: Mapping[Loc, Position] = field(default_factory=dict)
    problems: tuple[tuple[Position, str], ...] = ()
    usable: bool = True

    def position(self, loc: Loc, *, of_key: bool) -> Position:
        """Where the value at `loc`, or its key, stands; else the nearest thing around it."""
        while loc and loc not in self.values:
            loc = loc[:-1]
        value = self.values.get(loc, Position(1, 1))
        return self.keys.get(loc, value) if of_key else value


@lru_cache(maxsize=CACHED_DOCUMENTS)
def parse(raw: bytes) -> Document:
    """Reads one file; never raises. Equal bytes give the same document, so that a reload parses only what changed."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _unusable(_after(raw[: error.start].decode("utf-8")), f"not UTF-8: {error.reason}")
    try:
        root = _compose(text)
    except ReaderError as error:
        message = f"character {error.character!r} is not allowed in YAML"
        return _unusable(_after(text[: error.position]), message)
    except MarkedYAMLError as error:
        return _unusable(_of(error.problem_mark or error.context_mark), _sentence(error))
    except RecursionError:
        return _unusable(Position(1, 1), f"nested deeper than {MAX_DEPTH} levels")
    except (YAMLError, ValueError, AssertionError, AttributeError, LookupError, TypeError) as error:
        # Broken input can trip the parser itself; its message then names no place.
        return _unusable(Position(1, 1), f"not readable as YAML: {error}".splitlines()[0])
    if root is None:
        return Document({}, values={(): Position(1, 1)})
    reader = _Reader()
    try:
        data = reader.read(root, ())
    except _TooMuch as error:
        return _unusable(error.position, str(error))
    return Document(data, reader.keys, reader.values, tuple(reader.problems))


def _compose(text: str) -> Node | None:
    yaml = YAML(typ="safe", pure=True)
    yaml.composer.warn_double_anchors = False
    root: Node | None = yaml.compose(text)
    return root


def _sentence(error: MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    return ("not valid YAML: " + ", ".join(parts)).replace("\n", " ")


def _unusable(position: Position, message: str) -> Document:
    return Document(problems=((position, message),), usable=False)


def _of(mark: StreamMark | None) -> Position:
    return Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)


def _after(text: str) -> Position:
    lines = text.split("\n")
    return Position(len(lines), len(lines[-1]) + 1)


class _TooMuch(Exception):
    def __init__(self, position: Position, message: str) -> None:
        super().__init__(message)
        self.position = position


class _Reader:
    """Turns nodes into plain values; collects positions and problems on its way."""

    def __init__(self) -> None:
        self.keys: dict[Loc, Position] = {}
        self.values: dict[Loc, Position] = {}
        self.problems: list[tuple[Position, str]] = []
        self._read = 0
        self._open: set[int] = set()

    def read(self, node: Node, loc: Loc) -> Value:
        position = _of(node.start_mark)
        self.values[loc] = position
        self._enter(node, position)
        try:
            if isinstance(node, ScalarNode):
                return self._scalar(node, position)
            if str(node.tag) not in (_TAGS + "map", _TAGS + "seq"):
                self.problems.append((position, f"the tag {node.tag} is not allowed"))
            if isinstance(node, SequenceNode):
                return [self.read(item, (*loc, index)) for index, item in enumerate(node.value)]
            into: dict[str, Value] = {}
            self._mapping(node, loc, into, merged=False)
            return into
        finally:
            self._open.discard(id(node))

    def _enter(self, node: Node, position: Position) -> None:
        # Aliases are expanded, so a few lines could stand for billions of values or contain themselves.
        if id(node) in self._open:
            raise _TooMuch(position, "an anchor contains an alias of itself")
        if len(self._open) >= MAX_DEPTH:
            raise _TooMuch(position, f"nested deeper than {MAX_DEPTH} levels")
        self._open.add(id(node))
        self._read += 1
        if self._read > MAX_VALUES:
            raise _TooMuch(position, f"more than {MAX_VALUES} values in one file, aliases expanded")

    def _mapping(self, node: Node, loc: Loc, into: dict[str, Value], *, merged: bool) -> None:
        merges: list[Node] = []
        for key, value in node.value:
            if str(key.tag) == _TAGS + "merge":
                merges.append(value)
                continue
            position = _of(key.start_mark)
            if not isinstance(key, ScalarNode):
                self.problems.append((position, "a key must be text"))
                continue
            # The key's own text, whatever it looks like: a variant may be called 720 or 1080p.
            name = str(key.value)
            here = (*loc, name)
            if name not in into:
                self.keys[here] = position
                into[name] = self.read(value, here)
            elif not merged:
                self.problems.append((position, f"'{name}' is given twice, first in line {self.keys[here].line}"))
        for merge in merges:
            self._merge(merge, loc, into)

    def _merge(self, node: Node, loc: Loc, into: dict[str, Value]) -> None:
        for source in node.value if isinstance(node, SequenceNode) else [node]:
            position = _of(source.start_mark)
            if not isinstance(source, MappingNode):
                self.problems.append((position, "'<<' takes a mapping or a list of mappings"))
                continue
            self._enter(source, position)
            self._mapping(source, loc, into, merged=True)
            self._open.discard(id(source))

    def _scalar(self, node: ScalarNode, position: Position) -> Value:
        text = str(node.value)
        tag = str(node.tag).removeprefix(_TAGS)
        if tag in ("str", "value"):
            return text
        if tag == "null":
            return None
        if tag not in _SCALARS:
            self.problems.append((position, f"the tag {node.tag} is not allowed"))
            return None
        try:
            return _SCALARS[tag](text)
        except (ValueError, InvalidOperation):
            # Such as a hash of digits alone, .inf, 2027-02-30: text, which a field for numbers or dates refuses.
            return text


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("YAML 1.1")
    return text.lower() == "true"


def _integer(text: str) -> int:
    digits = text.replace("_", "").lower()
    if len(digits) > MAX_NUMBER_CHARS:
        raise ValueError("too long")
    unsigned = digits.lstrip("+-")
    return int(digits, _INT_BASES.get(unsigned[:2], 10))


def _decimal(text: str) -> Decimal:
    number = Decimal(text.replace("_", ""))
    if len(text) > MAX_NUMBER_CHARS or not number.is_finite():
        raise ValueError("not usable")
    return number


_SCALARS: Mapping[str, Callable[[str], Value]] = {
    "bool": _boolean,
    "int": _integer,
    "float": _decimal,
    "timestamp": date.fromisoformat,
}
