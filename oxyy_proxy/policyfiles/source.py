"""One file against its schema: findings in words, with the place of each."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from oxyy_proxy.policyfiles.document import Loc, Value, parse
from oxyy_proxy.policyfiles.findings import Finding
from oxyy_proxy.policyfiles.schema import DROPPED, Spec
from oxyy_proxy.policyfiles.values import shown

SpecT_co = TypeVar("SpecT_co", bound=Spec, covariant=True)

_KEY = "[key]"
"""How pydantic's locations end when the key of a mapping is at fault, not its value."""


@dataclass(slots=True)
class Findings:
    """What the files of one folder have against them so far."""

    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)


class Source(Generic[SpecT_co]):
    """A file while it is checked.

    `spec` is the validated file, or what remains of it without the parts that are wrong, so that the rest can be
    checked too; None if nothing is left. It goes into a policy only if no error was found at all.
    """

    def __init__(
        self, file: str, raw: bytes, kind: type[SpecT_co], findings: Findings, *, stand_ins: Mapping[str, Value]
    ) -> None:
        """`stand_ins` take the place of required fields of the file that are wrong or missing."""
        self.file = file
        self._stand_ins = stand_ins
        self._findings = findings
        self._document = parse(raw)
        findings.errors += [Finding(file, at.line, at.column, text) for at, text in self._document.problems]
        self.spec: SpecT_co | None = self._validated(kind) if self._document.usable else None

    def error(self, loc: Loc, message: str, *, key: bool = False) -> None:
        """Reports the value at `loc`, or its `key`."""
        self._findings.errors.append(self._finding(loc, message, key=key))

    def warn(self, loc: Loc, message: str, *, key: bool = False) -> None:
        """Like `error`, for what does not stand in the way."""
        self._findings.warnings.append(self._finding(loc, message, key=key))

    def where(self, loc: Loc) -> str:
        """`file:line` of a value, for the message about another one."""
        return f"{self.file}:{self._document.position(loc, of_key=False).line}"

    def names(self, *loc: str) -> frozenset[str] | None:
        """The keys of the mapping at `loc` as written, valid or not; None if there is no mapping."""
        found: Value = self._document.data
        for step in loc:
            found = found.get(step) if isinstance(found, dict) else None
        return frozenset(found) if isinstance(found, dict) else None

    def items(self, section: str, name: str) -> frozenset[str] | None:
        """The text field `name` of every item of a section as written; None if the section is no list."""
        data = self._document.data
        found = data.get(section, []) if isinstance(data, dict) else None
        if not isinstance(found, list):
            return None
        return frozenset(text for item in found if isinstance(item, dict) and isinstance(text := item.get(name), str))

    def _finding(self, loc: Loc, message: str, *, key: bool) -> Finding:
        at = self._document.position(loc, of_key=key)
        return Finding(self.file, at.line, at.column, message)

    def _validated(self, kind: type[SpecT_co]) -> SpecT_co | None:
        data = self._document.data
        try:
            return kind.model_validate(data)
        except ValidationError as error:
            details = error.errors(include_url=False)
        unreadable = {at for at, _ in self._document.problems}
        for detail in details:
            loc, of_key, message = describe(kind, detail)
            if self._document.position(loc, of_key=of_key) not in unreadable:
                self.error(loc, message, key=of_key)
        try:
            return kind.model_validate({**self._stand_ins, **_without(data, details, kind)})
        except ValidationError:
            return None


def suggestion(name: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing if no allowed name is close."""
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def describe(kind: type[Spec], detail: ErrorDetails) -> tuple[Loc, bool, str]:
    """Where an error of pydantic points, whether it means the key there, and a sentence with the allowed values."""
    loc: Loc = detail["loc"]
    given = detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            allowed = _fields(kind, loc[:-1])
            return (
                loc,
                True,
                f"unknown field '{loc[-1]}'; allowed: {', '.join(allowed)}{suggestion(str(loc[-1]), allowed)}",
            )
        case "missing":
            return loc[:-1], True, f"the field '{loc[-1]}' is missing"
        case "literal_error":
            return _place(loc, _choice(detail))
        case "too_short":
            return loc, False, "expected at least one item, got an empty list"
        case "list_type":
            return loc, False, f"expected a list, got {shown(given)}"
        case "dict_type" | "model_type":
            return loc, False, f"expected a mapping, got {shown(given)}"
        case "value_error":
            return _place(loc, str(detail["ctx"]["error"]))
        case _:
            return _place(loc, detail["msg"])


def _place(loc: Loc, message: str) -> tuple[Loc, bool, str]:
    return (loc[:-1], True, message) if loc and loc[-1] == _KEY else (loc, False, message)


def _choice(detail: ErrorDetails) -> str:
    allowed = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
    given = detail["input"]
    close = suggestion(given, allowed) if isinstance(given, str) else ""
    return f"expected one of {', '.join(allowed)}; got {shown(given)}{close}"


def _fields(kind: type[BaseModel], loc: Loc) -> list[str]:
    """The fields of the model at `loc` under `kind`."""
    at: Any = kind
    for step in loc:
        at = at.model_fields[step].annotation if _is_model(at) else get_args(at)[-1]
        at = _bare(at)
    return list(at.model_fields) if _is_model(at) else []


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _bare(kind: Any) -> Any:
    """A type without what is wrapped around it: `Annotated[X | None, …]` -> `X`."""
    while get_origin(kind) in (Annotated, Union, types.UnionType):
        kind = get_args(kind)[0]
    return kind


def _without(data: Value, details: list[ErrorDetails], kind: type[Spec]) -> dict[str, Any]:
    """A copy of a file's data without what `details` complain about: the unknown field, the smallest `separable` part,
    or else the whole section."""
    rest: Any = data if isinstance(data, dict) else {}
    for detail in details:
        loc: Loc = detail["loc"]
        if loc:
            rest = _dropped(rest, loc if detail["type"] == "extra_forbidden" else loc[: _separable_depth(loc, kind)])
    return cast(dict[str, Any], rest)


def _separable_depth(loc: Loc, kind: type[Spec]) -> int:
    fits = (
        len(pattern)
        for pattern in kind.separable
        if len(pattern) <= len(loc) and all(part in ("*", step) for part, step in zip(pattern, loc, strict=False))
    )
    return max(fits, default=1)


def _dropped(data: Any, loc: Loc) -> Any:
    first, rest = loc[0], loc[1:]
    if isinstance(data, list):
        return [
            item if index != first else _dropped(item, rest) if rest else DROPPED for index, item in enumerate(data)
        ]
    if not isinstance(data, dict) or first not in data:
        return data
    if rest:
        return {**data, first: _dropped(data[first], rest)}
    return {name: value for name, value in data.items() if name != first}
