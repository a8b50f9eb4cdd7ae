"""How many tokens a prompt has.

The rule is the simulator's own: one token per four bytes of UTF-8 text, three for each message, 500 for each
image, audio or file part. A prompt of text never counts more than one token per two bytes of its JSON.
"""

from __future__ import annotations

from collections.abc import Iterable

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 3
TOKENS_PER_PART = 500
PARTS = frozenset({"image_url", "input_audio", "file"})
CACHED_FROM = 64
"""A prompt of this many tokens or more finds a quarter of itself in the cache."""


def of_text(text: str) -> int:
    """Tokens of one text, rounded down."""
    return len(text.encode()) // BYTES_PER_TOKEN


def of_prompt(messages: list[object], *others: object) -> int:
    """Tokens of a conversation, and of whatever else the model reads (tools, a schema)."""
    text_bytes = parts = 0
    for node in _walk([messages, *others]):
        if isinstance(node, str):
            text_bytes += len(node.encode())
        else:
            parts += 1
    return text_bytes // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE * len(messages) + TOKENS_PER_PART * parts


def cached(prompt_tokens: int) -> int:
    """How many of the prompt's tokens were cached."""
    return prompt_tokens // 4 if prompt_tokens >= CACHED_FROM else 0


def _walk(roots: list[object]) -> Iterable[object]:
    """Every text, and every media part in place of what is inside it. A stack: bodies may be 1,024 levels deep."""
    stack = roots
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            yield node
        elif isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict):
            kind = node.get("type")
            if isinstance(kind, str) and kind in PARTS:
                yield node
            else:
                stack.extend(node.values())
