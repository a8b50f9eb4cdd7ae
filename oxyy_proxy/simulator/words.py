"""Text out of a hash: the same seed gives the same words."""

from __future__ import annotations

import hashlib

WORDS = (
    "a", "able", "about", "again", "air", "all", "and", "answer", "any", "ask", "back", "be", "begin", "bright",
    "by", "call", "can", "clear", "cloud", "come", "day", "each", "early", "end", "every", "far", "few", "find",
    "first", "for", "from", "give", "good", "half", "hand", "hold", "home", "in", "it", "keep", "kind", "land",
    "last", "light", "line", "long", "make", "more", "night", "no", "of", "on", "one", "open", "other", "over",
    "paper", "river", "small", "the", "time", "water", "word", "year",
)  # fmt: skip
SHORTEST, LONGEST = 5, 40
"""Words of an answer whose length nobody asked for."""


def derive(seed: bytes, label: str) -> bytes:
    """Another seed, for one purpose."""
    return hashlib.blake2b(seed + label.encode(), digest_size=16).digest()


def how_many(seed: bytes) -> int:
    """A number of words from SHORTEST to LONGEST."""
    return SHORTEST + int.from_bytes(seed[:4], "big") % (LONGEST - SHORTEST + 1)


def sentence(seed: bytes, count: int) -> list[str]:
    """`count` pieces, one word each, that join to a sentence; the spaces are part of the pieces."""
    picks = [WORDS[byte % len(WORDS)] for byte in hashlib.shake_256(seed).digest(count)]
    pieces = [f" {word}" for word in picks]
    if pieces:
        pieces[0] = picks[0].capitalize()
        pieces[-1] += "."
    return pieces


def chopped(text: str, size: int = 6) -> list[str]:
    """The text in pieces of `size` characters, as a model streams JSON."""
    return [text[i : i + size] for i in range(0, len(text), size)]
