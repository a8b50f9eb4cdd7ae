"""A small JSON text out of a large one, as it comes: enough to read what an answer says that it cost.

What makes answers large is left out: most of a long string, most of a long row of numbers, and what is nested deeper
than anybody reads. What is left is JSON if and only if the whole was, save for faults within what was left out: a text
that breaks off, anywhere, stays broken.

A pure object that is fed bytes. It works on blocks whose borders depend on the text alone, so that it makes no
difference how the bytes were cut on their way, and nowhere looks at single bytes, strings or numbers in Python; only at
brackets, for their depth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_RUN_BYTES = 512
"""Strings and rows of numbers up to this length are kept. More than six times what a word of an answer may have
(`endpoints.fields.MAX_WORD_CHARS`), or a key that anybody reads: each character may be spelled as an escape."""

MAX_LEVELS = 7
"""Objects and arrays deeper than that are emptied. The deepest that is read is the arguments of a tool call,
`{[{{[{{`; twenty log-probabilities to each token, of which an answer may have megabytes, begin one level deeper."""

MAX_SLIM_BYTES = 8 * 1024 * 1024
"""More is not kept. 2,048 embeddings leave 300 KB, and ten hours of speech with the time of each word 5 MB."""

BLOCK_BYTES = 64 * 1024
"""What is worked on at a time."""

_STAND_IN_BYTES = 80
"""What is left of a long string: its first characters, and dots. No empty string, which would be no `error`, and no
shorter than a word may be, or it would be one."""

_PLAIN = re.compile(rb"[ !#-\[\]-~]{0,64}")
"""The beginning of a string, up to an escape or a character that is not ASCII: neither may be cut in half."""

_LONG = re.compile(rb'"[^"]{%d,}' % (MAX_RUN_BYTES + 1))
"""More than the limit without a quote, and the quote before it: begun at any byte it would take quadratic time."""

_NUMBERS = re.compile(rb"[^-+.,0-9eE \t\r\n][-+.,0-9eE \t\r\n]{%d,}" % (MAX_RUN_BYTES + 1))
"""As `_LONG`, with what cannot be in a row of numbers before it."""

_SPACE = re.compile(rb"[ \t\r\n]+")

_OPEN_END = re.compile(rb"(?:\\|[\xc0-\xff][\x80-\xbf]{0,2})\Z")
"""What may be the beginning of an escape, or of a character in UTF-8, of which the rest is to come. An escape without
its backslash is plain, and stays whole by itself; of a surrogate pair a half may stay, as models leave them too."""

_OPEN_END_BYTES = 3

_BRACKETS = re.compile(rb'(?:"[^"]*+(?:"|\Z)[^"\[\]{}]*+)++|[\[\]{}]')
"""A bracket; or strings with what is between them, to be stepped over."""

_QUOTE = ord('"')


class Slimmer:
    """Fed with a JSON text as it comes; `finish` gives the slim one.

    Keeps the keys and the order of objects; all elements of an array that are not numbers, of a short array the numbers
    too; strings and numbers of up to `MAX_RUN_BYTES`. A longer string keeps its beginning, also as a key, which nobody
    asks for then. `dropped_bytes`: of long strings, what was left out. `overflowed`: more was left than is kept.
    """

    __slots__ = ("_depth", "_in_string", "_pending", "_skips", "_slim", "dropped_bytes", "overflowed")

    def __init__(self) -> None:
        self._pending = bytearray()  # the block that has not come whole
        self._slim = bytearray()
        self._in_string = False
        self._skips = False  # the rest of a string of which enough was kept
        self._depth = 0
        self.dropped_bytes = 0
        self.overflowed = False

    def feed(self, data: bytes) -> None:
        for at in range(0, len(data), BLOCK_BYTES):  # what is large is not copied at once
            self._pending += data[at : at + BLOCK_BYTES]
            while len(self._pending) >= BLOCK_BYTES:
                taken = self._take(bytes(self._pending[:BLOCK_BYTES]))
                del self._pending[:taken]

    def finish(self) -> bytes:
        """The slim text, when all has been fed; where it has `overflowed` nothing, which is no JSON."""
        rest, self._pending = bytes(self._pending), bytearray()
        self._take(rest, last=True)
        slim, self._slim = bytes(self._slim), bytearray()
        return slim

    def _take(self, block: bytes, *, last: bool = False) -> int:
        """Work on a block; how much of it was done, up to an escape or a character that may go on behind it."""
        if self._skips and b'"' not in block and b"\\" not in block:  # most of an image
            self.dropped_bytes += len(block)
            return len(block)
        text = _without_escapes(block)
        if not last and (open_end := _OPEN_END.search(text, len(text) - _OPEN_END_BYTES)):
            text = text[: open_end.start()]
        began_in_string = self._in_string
        slim = self._shortened(block, text)
        if not self.overflowed:
            self._slim += self._shallow(slim, began_in_string)
            if len(self._slim) > MAX_SLIM_BYTES:
                self.overflowed = True
                self._slim = bytearray()
        return len(text)

    def _shortened(self, block: bytes, text: bytes) -> bytes:
        """`block`, as far as there is `text` of it, without most of its long strings and rows of numbers."""
        at, end = 0, len(text)
        if self._skips:
            quote = text.find(b'"')
            at = end if quote < 0 else quote
            self._skips = quote < 0
            self.dropped_bytes += at
        kept = []
        for start, stop in _long_runs(text, at):
            kept.append(block[at:start])
            self._in_string ^= text.count(b'"', at, start) & 1 == 1
            if self._in_string:
                stand_in = _PLAIN.match(block, start, stop)[0].ljust(_STAND_IN_BYTES, b".")  # type: ignore[index]
                kept.append(stand_in)
                self.dropped_bytes += stop - start - len(stand_in)
                self._skips = stop == end
            else:
                kept.append(_few_numbers(block[start:stop]))
            at = stop
        kept.append(block[at:end])
        self._in_string ^= text.count(b'"', at, end) & 1 == 1
        return b"".join(kept)

    def _shallow(self, slim: bytes, in_string: bool) -> bytes:
        """Without what is too deep. `in_string`: it begins within a string."""
        text = _without_escapes(slim)
        at = 0
        if in_string:
            quote = text.find(b'"')
            at = len(text) if quote < 0 else quote + 1
        kept, kept_from, depth = [], 0, self._depth
        for found in _BRACKETS.finditer(text, at):
            byte = text[found.start()]
            if byte == _QUOTE:
                continue
            if byte in b"[{":
                if depth == MAX_LEVELS:
                    kept.append(slim[kept_from : found.end()])
                depth += 1
            else:
                depth -= 1
                if depth == MAX_LEVELS:
                    kept_from = found.start()
        if depth <= MAX_LEVELS:
            kept.append(slim[kept_from:])
        self._depth = depth
        return b"".join(kept)


def _without_escapes(block: bytes) -> bytes:
    """As long as `block`, and each quote in it begins or ends a string."""
    return block.replace(rb"\\", b"__").replace(rb"\"", b"__") if b"\\" in block else block


def _long_runs(text: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Where there is more than the limit from one quote to the next, or to the ends of the block."""
    quote = text.find(b'"', at)
    if quote < 0:
        quote = len(text)
    if quote - at > MAX_RUN_BYTES:
        yield at, quote
    for found in _LONG.finditer(text, quote):
        yield found.start() + 1, found.end()


def _few_numbers(text: bytes) -> bytes:
    """Text between strings, with what is left of long rows of numbers in it."""
    return _NUMBERS.sub(_ends_of_row, b":" + text)[1:]


def _ends_of_row(found: re.Match[bytes]) -> bytes:
    """A row of numbers without those between its first comma and its last: whole elements, and a comma behind each. Of
    a row that goes on in another block the number at the border stays whole, as what is in both goes on there."""
    row = found[0]
    first, last = row.find(b","), row.rfind(b",")
    if first < last:
        row = row[: first + 1] + row[last + 1 :]
    return _SPACE.sub(b" ", row) if len(row) > MAX_RUN_BYTES else row
