"""Faults on demand: how one is written, and the list that waits for matching requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .effects import KINDS, OUTAGE_S, Kind, Parameters

COMMON = ("fault", "model", "times", "polls")


class FaultError(ValueError):
    """A fault that cannot be; the message says what may be written."""


@dataclass(slots=True)
class Fault:
    """One fault. `model` None: any. `times` is how many more requests it will hit; None: all of them.

    `polls`: it hits GETs of video jobs, and nothing else; without it, it hits all but them.
    """

    name: str
    model: str | None
    times: int | None
    parameters: Parameters
    written: Mapping[str, object]
    polls: bool = False

    @property
    def kind(self) -> Kind:
        """Its line in the table of faults."""
        return KINDS[self.name]

    def fits(self, model: str, stream: bool, poll: bool = False) -> bool:
        """Whether it can hit such a request."""
        possible = self.times != 0 and (stream or self.kind.only is None)
        return possible and self.model in (None, model) and self.polls == poll

    def as_json(self) -> dict[str, object]:
        """As it was written, with what is left of `times`."""
        left = {} if self.times is None else {"times": self.times}
        return {**self.written, **left}


class FaultBoard:
    """The faults that wait, tried in order; the first that fits a request hits it.

    `outage` is called with seconds for a `refuse` that waits for nothing in particular: it begins at once.
    """

    def __init__(self, outage: Callable[[float], None]) -> None:
        self._faults: list[Fault] = []
        self._outage = outage

    def add(self, fault: Mapping[str, object]) -> None:
        """Takes `{"fault": NAME, "model"?, "times"?, ...}`. Raises FaultError."""
        self._take([parse_fault(fault)])

    def replace(self, faults: list[Fault]) -> None:
        """These faults in place of all others."""
        self.clear()
        self._take(faults)

    def clear(self) -> None:
        """No faults any more; an outage that has begun goes on."""
        self._faults.clear()

    def match(self, model: str, stream: bool, poll: bool = False) -> Fault | None:
        """The fault that hits this request; one of its `times` is used up."""
        for fault in self._faults:
            if fault.fits(model, stream, poll):
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    def as_json(self) -> list[dict[str, object]]:
        """All of them, also those that are used up (`times` 0)."""
        return [fault.as_json() for fault in self._faults]

    def _take(self, faults: list[Fault]) -> None:
        now = [fault for fault in faults if starts_at_once(fault)]
        self._faults += [fault for fault in faults if fault not in now]
        for fault in now:
            self._outage(OUTAGE_S if fault.parameters.for_s is None else fault.parameters.for_s)


def starts_at_once(fault: Fault) -> bool:
    """Whether it is an outage that needs no request to begin."""
    return fault.name == "refuse" and fault.model is None and fault.times is None and not fault.polls


def parse_fault(written: object) -> Fault:
    """The fault that this JSON object describes. Raises FaultError, naming what is allowed."""
    if not isinstance(written, Mapping):
        raise FaultError('a fault is an object such as {"fault": "status", "status": 503, "model": "gpt-5"}')
    name = written.get("fault")
    if not isinstance(name, str) or name not in KINDS:
        raise FaultError(f"no fault {name!r}; there are: {', '.join(KINDS)}")
    allowed = (*COMMON, *KINDS[name].parameters)
    if unknown := sorted(str(key) for key in written if key not in allowed):
        raise FaultError(f"fault {name} does not take {', '.join(unknown)}; it takes: {', '.join(allowed)}")
    model, times = written.get("model"), written.get("times")
    if model is not None and not isinstance(model, str):
        raise FaultError("model must be the name of a model")
    if times is not None and (isinstance(times, bool) or not isinstance(times, int) or times < 1):
        raise FaultError("times must be a whole number of at least 1: so many requests are hit")
    polls = written.get("polls", False)
    if not isinstance(polls, bool):
        raise FaultError("polls must be true or false: true hits GETs of video jobs alone")
    return Fault(name, model, times, _parameters(written), dict(written), polls)


def _parameters(written: Mapping[str, object]) -> Parameters:
    given = {key: value for key, value in written.items() if key not in COMMON and value is not None}
    for key, value in given.items():
        fine, must_be = CHECKS[key]
        if not fine(value):
            raise FaultError(f"{key} must be {must_be}, not {value!r}")
    return Parameters(**given)  # type: ignore[arg-type]  # each value has just been checked


def _whole(least: int, most: int = 2**40) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _headers(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(text, str) and text.isprintable() for pair in value.items() for text in pair
    )


CHECKS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "status": (_whole(300, 599), "an HTTP status from 300 to 599"),
    "headers": (_headers, 'an object of texts such as {"Retry-After": "2"}'),
    "for_s": (_duration, "a number of seconds, 0 or more"),
    "after_bytes": (_whole(0), "a number of bytes, 0 or more"),
    "bytes": (_whole(1), "a number of bytes, 1 or more"),
    "every_ms": (_duration, "a number of milliseconds, 0 or more"),
}
