"""The fault matrix as it is written in `matrix.toml`, one `Entry` for each test."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SIDES = ("upstream", "client", "host")

_FIELDS = {"id", "side", "what", "endpoint", "stream", "fallback", "policy", "do", "client", "upstream", "ledger"}
_CLIENT = {
    "status", "code", "whole", "body", "bytes", "contains", "lacks", "error_event", "done", "headers", "model",
    "within_ms",
}  # fmt: skip
_UPSTREAM = {"calls", "models", "connections"}
_LEDGER = {"state", "charged", "code", "attempts"}


class MatrixError(ValueError):
    """An entry that cannot be; the message names it."""


@dataclass(frozen=True)
class Entry:
    """One fault and what must come of it; the fields are explained at the top of `matrix.toml`."""

    id: str
    side: str
    what: str
    do: Mapping[str, Any]
    client: tuple[Mapping[str, Any], ...]
    upstream: Mapping[str, Any]
    ledger: tuple[Mapping[str, Any], ...]
    endpoint: str = "chat"
    stream: bool = False
    fallback: bool = False
    policy: Mapping[str, Any] = field(default_factory=dict)


def load() -> list[Entry]:
    """All entries, in the order of the file. Raises MatrixError."""
    found = read((FOLDER / "matrix.toml").read_text())
    ids = [entry.id for entry in found]
    if twice := {each for each in ids if ids.count(each) > 1}:
        raise MatrixError(f"these stand in the matrix twice: {', '.join(sorted(twice))}")
    return found


def read(text: str) -> list[Entry]:
    """The entries of one file, lists of values expanded. Raises MatrixError."""
    return [entry for written in tomllib.loads(text).get("fault", []) for entry in _expanded(_checked(written))]


def _checked(written: Mapping[str, Any]) -> Entry:
    name = written.get("id", "an entry without id")
    if missing := {"id", "side", "what", "do", "client", "upstream", "ledger"} - written.keys():
        raise MatrixError(f"{name}: {', '.join(sorted(missing))} missing")
    if written["side"] not in SIDES:
        raise MatrixError(f"{name}: side must be one of {', '.join(SIDES)}")
    entry = Entry(**{**written, "client": _tables(written["client"]), "ledger": _tables(written["ledger"])})
    for said, allowed in (
        ((written,), _FIELDS),
        (entry.client, _CLIENT),
        ((entry.upstream,), _UPSTREAM),
        (entry.ledger, _LEDGER),
    ):
        for table in said:
            if unknown := table.keys() - allowed:
                raise MatrixError(f"{name}: no field {', '.join(sorted(unknown))}; there are {', '.join(allowed)}")
    return entry


def _tables(written: Any) -> tuple[Mapping[str, Any], ...]:
    return tuple(written) if isinstance(written, list) else (written,)


def _expanded(entry: Entry) -> Iterator[Entry]:
    for endpoint, stream, fallback, at in itertools.product(
        _each(entry.endpoint), _each(entry.stream), _each(entry.fallback), _each(entry.do.get("at"))
    ):
        name = [entry.id]
        if isinstance(entry.endpoint, list):
            name.append(endpoint)
        if isinstance(entry.stream, list):
            name.append("stream" if stream else "whole")
        if isinstance(entry.fallback, list):
            name.append("fallback" if fallback else "alone")
        if isinstance(entry.do.get("at"), list):
            name.append(str(at))
        do = entry.do if at is None else {**entry.do, "at": at}
        yield replace(entry, id="-".join(name), endpoint=endpoint, stream=stream, fallback=fallback, do=do)


def _each(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else (value,)
