"""The fields of a body that may come as JSON or as a multipart form, read alike."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from math import ceil
from typing import Any

from oxyy_proxy.endpoints.base import JSON, MAX_INT, model_of, optional, optional_int
from oxyy_proxy.errors import InvalidValue
from oxyy_proxy.rules.jsonbody import JsonBody
from oxyy_proxy.rules.multipart import Form, Part, Pieces

MAX_WORD_CHARS = 64
"""Of a field that chooses a variant of a price, such as a size: it is kept with a job."""

MAX_ADDRESSES = 64
"""URLs in one request; no upstream takes more images, and each is looked at."""


class Fields(ABC):
    """`model`: the one that is asked for, None where the body names none."""

    content_type: str
    model: str | None

    @abstractmethod
    def text(self, name: str) -> str | None:
        """The text of a field, None where absent or null. Raises InvalidValue, as all that follow."""

    @abstractmethod
    def integer(self, name: str, *, least: int, most: int = MAX_INT) -> int | None: ...

    @abstractmethod
    def flag(self, name: str) -> bool: ...

    @abstractmethod
    def files(self, name: str) -> tuple[Part, ...]:
        """The files of this name, or of `name[]`, as for arrays; none in JSON."""

    @abstractmethod
    def addresses(self, name: str) -> tuple[tuple[str, str], ...]:
        """The URLs in a field, one or several, as `Ask.urls` wants them; none where it is absent. A form may have them
        under `name[]`, and beside files."""

    @abstractmethod
    def changed(self, changes: Mapping[str, str | int]) -> bytes | Pieces:
        """The body with these fields set, all else as it came."""

    @abstractmethod
    def require_room_for(self, model: str) -> None:
        """Raises InvalidValue where `changed` cannot set this model."""

    @abstractmethod
    def forget(self) -> None:
        """All has been read: the values, which may be large, are no longer kept beside the body."""

    def required(self, name: str) -> str:
        """The text of a field that must be there and not be empty."""
        value = self.text(name)
        if not value:
            raise InvalidValue(f"'{name}' is missing. Send it as text that is not empty.", param=name)
        return value

    def word(self, name: str) -> str:
        """A short text on one line; empty where absent."""
        value = self.text(name) or ""
        if len(value) > MAX_WORD_CHARS or not value.isprintable():
            raise InvalidValue(f"'{name}' must be {MAX_WORD_CHARS} characters on one line at most.", param=name)
        return value

    def address(self, name: str) -> tuple[tuple[str, str], ...]:
        """The URL in a field that takes one alone, as `addresses`."""
        return () if self.text(name) is None else ((self.required(name), name),)


class JsonFields(Fields):
    """A JSON object."""

    content_type = JSON

    def __init__(self, raw: bytes) -> None:
        """Raises InvalidJson or InvalidValue."""
        self._body = JsonBody(raw)
        self.members = self._body.members
        self.model = model_of(self.members)

    def text(self, name: str) -> str | None:
        return optional(self.members, name, str, "a string")  # type: ignore[no-any-return]

    def integer(self, name: str, *, least: int, most: int = MAX_INT) -> int | None:
        return optional_int(self.members, name, least=least, most=most)

    def flag(self, name: str) -> bool:
        return bool(optional(self.members, name, bool, "true or false"))

    def files(self, name: str) -> tuple[Part, ...]:
        return ()

    def addresses(self, name: str) -> tuple[tuple[str, str], ...]:
        value = self.members.get(name)
        return _addresses(value if isinstance(value, list) else [] if value is None else [value], name)

    def changed(self, changes: Mapping[str, str | int]) -> bytes:
        return self._body.replaced(changes) if changes else self._body.raw

    def require_room_for(self, model: str) -> None:
        return  # a string holds any

    def forget(self) -> None:
        self.members.update(dict.fromkeys(self.members))  # what names there are is still asked for


class FormFields(Fields):
    """A multipart form: every field is text, or a file."""

    def __init__(self, form: Form, content_type: str) -> None:
        """`content_type`: the header that names its boundary. Raises InvalidValue."""
        self._form = form
        self.content_type = content_type
        self.model = model_of({"model": form.text("model")})

    def text(self, name: str) -> str | None:
        return self._form.text(name)

    def integer(self, name: str, *, least: int, most: int = MAX_INT) -> int | None:
        text = self._form.text(name)
        if text is None:
            return None
        # int() takes "1_0", " 1", "010" and digits of other scripts, of which another parser may think otherwise.
        return optional_int({name: int(text) if _INTEGER.fullmatch(text) else text}, name, least=least, most=most)

    def flag(self, name: str) -> bool:
        text = self._form.text(name)
        if text is not None and text.lower() not in _FLAGS:
            raise InvalidValue(f"'{name}' must be true or false.", param=name)
        return text is not None and _FLAGS[text.lower()]

    def files(self, name: str) -> tuple[Part, ...]:
        return tuple(part for part in self._named(name) if part.value is None)

    def addresses(self, name: str) -> tuple[tuple[str, str], ...]:
        values = [part.value for part in self._named(name) if part.value is not None]
        return _addresses([value.decode("utf-8", "surrogateescape") for value in values], name)

    def changed(self, changes: Mapping[str, str | int]) -> Pieces:
        return self._form.with_fields({name: str(value) for name, value in changes.items()})

    def require_room_for(self, model: str) -> None:
        if f"--{self._form.boundary}" in model:
            raise InvalidValue("The form's boundary is a part of the model's name. Choose a random one.", param="model")

    def forget(self) -> None:
        return  # its text is small, and its files are elsewhere

    def _named(self, name: str) -> Iterator[Part]:
        return (part for part in self._form.parts if part.name.partition("[")[0] == name)


_FLAGS = {"true": True, "false": False, "1": True, "0": False}
"""How clients write a flag in a form."""

_INTEGER = re.compile(rf"0|[1-9][0-9]{{0,{len(str(MAX_INT)) - 1}}}")


def _addresses(values: Sequence[object], name: str) -> tuple[tuple[str, str], ...]:
    if not all(isinstance(url, str) and url for url in values):
        raise InvalidValue(f"'{name}' must be a URL, or an array of URLs.", param=name)
    if len(values) > MAX_ADDRESSES:
        raise InvalidValue(f"'{name}' holds {len(values)} URLs; {MAX_ADDRESSES} are taken at most.", param=name)
    return tuple((str(url), name) for url in values)


def media_type(content_type: str) -> str:
    """Of a Content-Type header, in lower case, without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def told_word(answer: dict[str, Any], name: str) -> str:
    """What an answer says of the variant that was made; empty where it does not."""
    value = answer.get(name)
    if not isinstance(value, str) or len(value) > MAX_WORD_CHARS or value.strip().lower() == "auto":
        return ""
    return value


def milliseconds(seconds: object, most_ms: int) -> int | None:
    """A length that an upstream tells in seconds, also where it writes it as text; a part of a millisecond counts as
    one. None for what is no length, or a longer one than `most_ms`."""
    if not isinstance(seconds, int | float | str):
        return None
    try:
        text = str(seconds)
        # By its decimals: in binary fractions 0.07 * 1000 is a hair above 70.
        exact = Decimal(text if len(text) <= _MAX_NUMBER_CHARS else "NaN") * 1000
    except (ArithmeticError, ValueError):  # no number (True is none), or of more digits than Python converts
        return None
    return ceil(exact) if exact.is_finite() and 0 < exact <= most_ms else None


_MAX_NUMBER_CHARS = 32
"""More than any number has that was a float."""
