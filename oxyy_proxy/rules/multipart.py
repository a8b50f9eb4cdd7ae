"""A multipart/form-data request body (RFC 7578, RFC 2046 section 5.1): its fields, and where in the bytes they stand.

The body goes upstream byte for byte and is kept elsewhere; the reader sees each piece once and keeps the text fields
alone. The upstream has another parser. Whatever two parsers could read differently is refused, since it could be one
model to us and another to the upstream: preamble, padding, folded or bare line ends, a field twice, and the boundary
anywhere but in a delimiter. The framing is read by `multipart`; what it tolerates is checked here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn
from urllib.parse import unquote

from multipart import MultipartError, PushMultipartParser  # type: ignore[import-untyped]

from oxyy_proxy.errors import InvalidValue, MalformedRequest, ProxyError

MAX_FIELD_BYTES = 1024 * 1024
"""Of all text fields of a form together: they are held in memory."""

MAX_PARTS = 256
MAX_HEADER_BYTES = 8 * 1024
"""Of the headers of one part."""

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 section 5.6.2
_PARAMETER = rf'[ \t]*;[ \t]*({_TOKEN})=({_TOKEN}|"[^"\\]*")'
_FORM_TYPE = re.compile(rf"multipart/form-data((?:{_PARAMETER})*)[ \t]*", re.ASCII | re.IGNORECASE)
_PART_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}((?:{_PARAMETER})*)")
_PARAMETERS = re.compile(_PARAMETER)
_BOUNDARY = re.compile(r"(?=.*[0-9A-Za-z])(?! )[0-9A-Za-z'()+_,\-./:=? ]{1,70}(?<! )")  # RFC 2046 section 5.1.1
_NAME_OF_HEADER = re.compile(_TOKEN)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DISPOSITION = re.compile(
    # In the order in which every client writes them: with another, a search for `name=` could find that of `filename=`.
    rf'form-data; *name=(?P<name>{_TOKEN}|"[^"]*")(?:; *filename=(?P<filename>{_TOKEN}|"[^"]*"))?'
    r"(?:; *filename\*=utf-8'[a-z-]*'(?P<extended>(?:[!#$&+.^_`|~0-9a-z-]|%[0-9a-f]{2})+))?",
    re.ASCII | re.IGNORECASE,  # beyond ASCII, a dotless i is an i without regard to case
)
_ODD_NAME = re.compile(r"\\|%[01][0-9a-f]|%7f|=\?", re.IGNORECASE)  # escapes that one parser undoes, another not
_ODD_FILENAME = re.compile(r"\\$|;\s*(?:file)?name\*?\s*=", re.IGNORECASE)  # ends, or begins, a parameter elsewhere
_ADDABLE = re.compile(r"[A-Za-z0-9_.\[\]-]+")

_LIKE_ASCII = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1"})
"""Charsets in which a model's name has the same bytes; UTF-16 or UTF-7 would hide one."""

_AS_THEY_ARE = frozenset({"7bit", "8bit", "binary"})


class Part(NamedTuple):
    """One part of a form. `at` is the offset in the body of the first byte of its value."""

    name: str
    filename: str | None  # None: a text field
    content_type: str  # in lower case without parameters; "" where the part has none
    at: int
    size_bytes: int
    value: bytes | None  # of a text field; None for a file
    length: Span | None = None  # the digits of the part's own Content-Length, which some clients send


class Span(NamedTuple):
    """Bytes of the body as received: start <= i < end."""

    start: int
    end: int


Pieces = tuple[bytes | Span, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """A whole form as it was received: `size_bytes` is that of the body."""

    parts: tuple[Part, ...]
    size_bytes: int
    boundary: str

    def text(self, name: str) -> str | None:
        """The text field of that name, None where absent. Raises InvalidValue: there twice, a file, or not UTF-8."""
        part = self._field(name)
        if part is None or part.value is None:
            return None
        try:
            return part.value.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidValue(f"The field {name!a} is not UTF-8. Encode it as UTF-8.", param=name) from None

    def files(self, *names: str) -> tuple[Part, ...]:
        """The file parts that have one of these names, in the order of the body."""
        return tuple(part for part in self.parts if part.filename is not None and part.name in names)

    def with_fields(self, fields: Mapping[str, str]) -> Pieces:
        """The body with these text fields set: in place where they exist, else as parts in front of all others.

        Raises InvalidValue as `text` does, and ValueError for a name or value that a part cannot hold as it is.
        """
        dash = b"--" + self.boundary.encode()
        added, edits = b"", []
        for name, text in fields.items():
            value = text.encode()
            if dash in value or not _ADDABLE.fullmatch(name):
                raise ValueError(f"the field {name!a} cannot be set to {text!a} in a form with boundary {dash!a}")
            part = self._field(name)
            if part is None:
                added += b'%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (dash, name.encode(), value)
                continue
            edits.append((Span(part.at, part.at + part.size_bytes), value))
            if part.length is not None:
                edits.append((part.length, b"%d" % len(value)))
        pieces: list[bytes | Span] = [added]
        at = 0
        for span, replacement in sorted(edits):
            pieces += [Span(at, span.start), replacement]
            at = span.end
        return tuple(piece for piece in (*pieces, Span(at, self.size_bytes)) if piece)

    def _field(self, name: str) -> Part | None:
        found = [part for part in self.parts if part.name == name]
        if len(found) > 1:
            raise InvalidValue(f"The form has the field {name!a} twice. Keep one of them.", param=name)
        if found and found[0].value is None:
            raise InvalidValue(f"The field {name!a} must be text: send it without a filename.", param=name)
        return found[0] if found else None


def is_form(content_type: str) -> bool:
    """Whether this Content-Type header says multipart/form-data."""
    return content_type.partition(";")[0].strip(" \t").lower() == "multipart/form-data"


class FormReader:
    """Reads a form in the pieces in which it comes, whatever they are; keeps text fields and unfinished headers."""

    def __init__(self, content_type: str) -> None:
        """For a body with this Content-Type header. Raises MalformedRequest: not a form, or no proper boundary."""
        self._boundary = _boundary_of(content_type)
        self._dash = b"--" + self._boundary.encode()
        self._parser = PushMultipartParser(
            self._boundary, max_header_size=MAX_HEADER_BYTES, max_segment_count=MAX_PARTS, strict=True
        )
        self._refusal: ProxyError | None = None
        self._size = 0
        self._end: int | None = None  # offset after the closing delimiter
        self._parts: list[Part] = []
        self._texts: set[str] = set()  # canonical names
        self._files: set[str] = set()
        self._text_bytes = 0
        # Of the part that is being read:
        self._begin = len(self._dash) + 2  # offset of its headers
        self._head = b""  # its headers so far
        self._part: Part | None = None  # known when its headers are
        self._value = bytearray()
        self._value_size = 0
        self._tail = b""  # the end of its value so far, where a boundary may have begun

    def feed(self, data: bytes) -> None:
        """Read the next piece. Raises MalformedRequest or InvalidValue; the same again for any piece after that."""
        if self._refusal is not None:
            raise self._refusal
        try:
            self._read(data)
        except MultipartError as error:
            self._refusal = MalformedRequest(f"The form cannot be read: {error}. Send it as RFC 7578 describes.")
            raise self._refusal from None
        except ProxyError as error:
            self._refusal = error
            raise

    def finish(self) -> Form:
        """The form, after its last piece. Raises MalformedRequest: the body ends before its closing delimiter."""
        if self._refusal is not None:
            raise self._refusal
        if self._end is None or self._size == self._end + 1:
            _refuse("the body ends early", 'end it with the closing delimiter "--boundary--"')
        return Form(tuple(self._parts), self._size, self._boundary)

    def _read(self, data: bytes) -> None:
        base = self._size  # offset of this piece
        self._size += len(data)
        opening = (self._dash + b"\r\n")[base : base + len(data)]
        if not data.startswith(opening):
            # The parser would skip a preamble. No part at all ends here too.
            _refuse("the body does not begin with its boundary", "begin it with the first part's delimiter")
        if data and self._end is None:  # to the parser an empty piece is the end
            for event in self._parser.parse(data):
                if event is None:
                    self._end_part(data, base)
                elif isinstance(event, bytes):
                    self._take_value(event)
                else:
                    self._begin_part(event, data, base)
        if self._end is not None:
            at = max(self._end, base)
            if not b"\r\n"[at - self._end :].startswith(data[at - base :]):
                _refuse("something follows the closing delimiter", "end the body there")
        elif self._part is None:
            self._head = self._head_with(data, base)
            if len(self._head) > MAX_HEADER_BYTES + 3:  # CRLF CR may have come of what ends them
                _refuse_long_headers()

    def _head_with(self, data: bytes, base: int) -> bytes:
        """The headers of the part so far, and what may belong to them in this piece."""
        start = max(self._begin - base, 0)
        return self._head + data[start : start + MAX_HEADER_BYTES + 4]

    def _begin_part(self, segment: Any, data: bytes, base: int) -> None:
        """The parser has read the headers: an empty line ends them, so that the value's offset follows."""
        raw, end, _ = self._head_with(data, base).partition(b"\r\n\r\n")
        if not end or len(raw) > MAX_HEADER_BYTES:
            _refuse_long_headers()
        self._refuse_boundary_in(raw)
        part = _described(_headers_of(raw), segment)._replace(at=self._begin + len(raw) + len(end))
        if digits := re.search(rb"(?im)^content-length: *([0-9]+)", raw):  # the parser holds the value to it
            part = part._replace(length=Span(self._begin + digits.start(1), self._begin + digits.end(1)))
        self._admit(part)
        self._part = part
        self._head, self._tail, self._value_size = b"", b"", 0
        self._value = bytearray()

    def _admit(self, part: Part) -> None:
        """Raises InvalidValue where another parser could take this field for one that is there already."""
        name = _canonical(part.name)
        is_text = part.filename is None
        if name in self._texts and not (is_text and part.name.endswith("[]")):
            raise InvalidValue(f"The form has the field {part.name!a} twice. Keep one of them.", param=part.name)
        if is_text and name in self._files:
            raise InvalidValue(f"The field {part.name!a} is both text and a file. Keep one.", param=part.name)
        (self._texts if is_text else self._files).add(name)

    def _take_value(self, data: bytes) -> None:
        overlap = len(self._dash) - 1
        self._refuse_boundary_in(self._tail + data[:overlap])
        self._refuse_boundary_in(data)
        self._tail = data[-overlap:] if len(data) >= overlap else (self._tail + data)[-overlap:]
        self._value_size += len(data)
        if self._part is not None and self._part.filename is None:
            self._text_bytes += len(data)
            if self._text_bytes > MAX_FIELD_BYTES:
                _refuse(f"its text fields have more than {MAX_FIELD_BYTES} bytes", "send less text")
            self._value += data

    def _refuse_boundary_in(self, data: bytes) -> None:
        """There are parsers that look for it after a bare line feed, at the start of a value, or anywhere."""
        if self._dash in data:
            _refuse("its boundary occurs within a part", "choose a longer, random boundary")

    def _end_part(self, data: bytes, base: int) -> None:
        assert self._part is not None
        part = self._part._replace(size_bytes=self._value_size)
        if part.filename is None:
            part = part._replace(value=bytes(self._value))
            if part.name == "_charset_" and self._value.lower() != b"utf-8":
                _refuse("its _charset_ is not utf-8", "encode the form as UTF-8")
        self._parts.append(part)
        self._part = None
        # CRLF, boundary, and the two bytes of which the parser has just seen the last one: CRLF again, or "--".
        after = part.at + part.size_bytes + 2 + len(self._dash) + 2
        if data[after - 1 - base] == ord("-"):
            self._end = after
        self._begin = after


def _refuse(problem: str, remedy: str) -> NoReturn:
    raise MalformedRequest(f"The form cannot be read: {problem}. To mend it, {remedy}.")


def _refuse_long_headers() -> NoReturn:
    _refuse(f"the headers of a part have more than {MAX_HEADER_BYTES} bytes", "shorten its filename and headers")


def _boundary_of(content_type: str) -> str:
    """The boundary that a Content-Type header declares. Raises MalformedRequest where there is any doubt about it."""
    remedy = "send 'Content-Type: multipart/form-data; boundary=…' as your HTTP library makes it"
    form = _FORM_TYPE.fullmatch(content_type)
    if form is None:
        _refuse("its Content-Type is not well-formed", remedy)
    parameters = _parameters(form[1])
    if parameters.keys() - {"boundary", "charset"} or parameters.get("charset", "utf-8").lower() not in _LIKE_ASCII:
        _refuse("its Content-Type has a parameter other than boundary and charset=utf-8", remedy)
    boundary = parameters.get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        _refuse("its boundary is missing, longer than 70 characters or has characters that none may have", remedy)
    return boundary


def _parameters(text: str) -> dict[str, str]:
    """The parameters of a media type, by name in lower case. Raises MalformedRequest: one is there twice."""
    found: dict[str, str] = {}
    for name, value in _PARAMETERS.findall(text):
        if name.lower() in found:
            _refuse(f"a Content-Type has the parameter {name} twice", "send it once")
        found[name.lower()] = value.strip('"')
    return found


def _headers_of(raw: bytes) -> dict[str, str]:
    """The headers of a part, by name in lower case. The parser has split them already and seen that they are UTF-8."""
    headers: dict[str, str] = {}
    for line in raw.decode("utf-8").split("\r\n"):
        name, colon, value = line.partition(":")
        if not colon or not _NAME_OF_HEADER.fullmatch(name) or _CONTROL.search(value):
            _refuse("a part has a malformed header", "send one line 'Name: value' per header, ended by CRLF")
        if name.lower() in headers:
            _refuse(f"a part has the header {name} twice", "send it once")
        headers[name.lower()] = value.strip(" ")
    return headers


def _described(headers: Mapping[str, str], segment: Any) -> Part:
    """The part that its headers describe. Raises MalformedRequest, and InvalidValue for a `model` that is not text."""
    name, filename = _names_in(headers.get("content-disposition", ""))
    if name != segment.name:  # no such name is known: a second reading, should the parser change its mind
        _refuse(f"the name {name!a} of a part is ambiguous", "use a plain name")
    content_type = segment.content_type or ""
    if content_type.startswith(("multipart/", "message/")):
        _refuse(f"a part is itself {content_type}", "send each file as a part of its own")
    transfer = headers.get("content-transfer-encoding", "binary").lower()
    if transfer not in _AS_THEY_ARE or headers.get("content-encoding", "identity").lower() != "identity":
        _refuse("a part is encoded", "send its bytes as they are, without a Content-Transfer-Encoding")
    if filename is None:
        _refuse_charset(headers.get("content-type", "text/plain"))
    elif name == "_charset_":
        _refuse("its _charset_ is a file", "leave it out")
    if re.sub(r"\[.*", "", _canonical(name)).strip() == "model":
        if name != "model":
            raise InvalidValue(f"The field {name!a} could be read as 'model'. Call it model.", param="model")
        if filename is not None or content_type not in ("", "text/plain"):
            raise InvalidValue("The field 'model' must be text: send it without a filename.", param="model")
    return Part(name, filename, content_type, 0, 0, None)


def _names_in(disposition: str) -> tuple[str, str | None]:
    """The name and the filename that a Content-Disposition header gives (RFC 7578 section 4.2), if no two parsers can
    differ about the name. Raises MalformedRequest."""
    found = _DISPOSITION.fullmatch(disposition)
    if found is None:
        _refuse("a part's Content-Disposition is not well-formed", 'send: form-data; name="…"; filename="…"')
    written = found["name"].strip('"')
    name = written.replace("%22", '"')  # as browsers write a quote
    if not name or not name.isprintable() or _ODD_NAME.search(written):
        _refuse("a part's name is empty or has control characters or escapes", "use a plain name")
    if found["filename"] is None:
        return name, found["extended"] and unquote(found["extended"])
    filename = found["filename"].strip('"')
    if _ODD_FILENAME.search(filename):
        _refuse("a part's filename ends in a backslash or looks like a parameter", "rename the file")
    return name, filename


def _refuse_charset(content_type: str) -> None:
    """Raises MalformedRequest where the value of a text field could be other text to another parser."""
    media_type = _PART_TYPE.fullmatch(content_type)
    if media_type is None or _parameters(media_type[1]).get("charset", "utf-8").lower() not in _LIKE_ASCII:
        _refuse("a text field's Content-Type is malformed or names a charset other than utf-8", "send text as UTF-8")


def _canonical(name: str) -> str:
    """What a lenient reader may make of a field's name."""
    return unicodedata.normalize("NFKC", unquote(name)).strip().casefold()
