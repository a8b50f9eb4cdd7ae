"""Events that differ in their text alone are not read one by one, and nobody can tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oxyy_proxy.endpoints import chat
from oxyy_proxy.endpoints.chat import ChatMeter
from tests.endpoints.test_chat_stream import ERROR, ROLE, STOP, TOOL, USAGE, content, event


class Thorough(ChatMeter):
    """Reads every event."""

    def feed(self, data: bytes) -> bytes:
        self._lessons = 0
        return self._read(data)


def told(meter: ChatMeter) -> tuple[Any, ...]:
    """All that a meter says."""
    failure = meter.failure and (type(meter.failure), str(meter.failure))
    return (
        *(meter.started, meter.ended, meter.usage, failure),
        *(meter.farewell, meter.output_bytes, meter.mid_event),
    )


def require_the_same(pieces: list[bytes], *, keep_usage: bool = False) -> ChatMeter:
    """Both meters say the same after each piece."""
    quick, thorough = ChatMeter(keep_usage=keep_usage), Thorough(keep_usage=keep_usage)
    for piece in pieces:
        assert quick.feed(piece) == thorough.feed(piece)
        assert told(quick) == told(thorough)
    assert quick.finish() == thorough.finish()
    assert told(quick) == told(thorough)
    return quick


def shaped(slot: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """An event of the shape that most have, with these bytes where its text and its quotes stand."""
    head = b'data: {"id":"c",%b"choices":[{"index":0,"delta":{"content":' % before
    return head + slot + b'},"finish_reason":null}]%b}\n\n' % after


TEXTS = [b"Hello", b"", b" \xe6\x97\xa5", b"\\u65e5", b"\\n\\n", b'\\"usage\\":', b"[DONE]", b"\\ud83c\\udf88", b"\x7f"]
ODD = [
    b"null",
    b"1",
    b'["x"]',
    b' "x"',
    b'"x" ',
    b'"x"\n',
    b'"x"\n\n',
    b'\r\r"x"',
    b'"x"\r',
    b'"a\nb"',
    b'"a\n\nb"',
    b'"a\rb"',
    b'"a\x01b"',
    b'"\xff"',
    b'"\\ud83c"',
    b'"\\x"',
    b'"x',
    b'x"',
    b'"',
    b"",
    b'"x","role":"y"',
    b'"x","refusal":"no"',
    b'"x"},"finish_reason":null}],"usage":{"prompt_tokens":9,"completion_tokens":4},"x":[{"y":{"z":"z"',
    b'"x"},"finish_reason":null}],"error":"bad","x":[{"y":{"z":"z"',
    b'"x"},"finish_reason":null}]}\n\ndata: [DONE]\n\ndata: {"x":[{"y":{"z":"z"',
]
SLOTS = [*[b'"%b"' % text for text in TEXTS], *ODD]


def beside_another(slot: bytes) -> bytes:
    """An event with one more choice, whose text stays."""
    return b'data: {"choices":[{"delta":{"content":%b}},{"delta":{"content":"more"}}]}\n\n' % slot


@pytest.mark.parametrize("keep_usage", [False, True])
@pytest.mark.parametrize("slot", SLOTS, ids=repr)
@pytest.mark.parametrize("shape", [shaped, beside_another])
def test_what_stands_in_the_place_of_the_text_is_judged_as_if_read(
    shape: Callable[[bytes], bytes], slot: bytes, keep_usage: bool
) -> None:
    known, other = shape(b'"known"'), shape(slot)
    for pieces in ([known, other], [known + other], [known + known + other + known + b"data: "]):
        require_the_same([*pieces, known, event(USAGE), event("[DONE]")], keep_usage=keep_usage)


ROUNDS = [
    (b"", b""),
    (b"", b',"usage":null'),
    (b"", b',"error":null'),
    (b'"usage":null,', b""),
    (b"", b',"usage":{"prompt_tokens":9,"completion_tokens":4}'),
    (b"", b',"usage":{"prompt_tokens":9,"completion_tokens":5}'),
    (b"", b',"us\\u0061ge":{"prompt_tokens":9,"completion_tokens":4}'),
    (b'"usage" : {"prompt_tokens":9,"completion_tokens":4},', b""),
    (b'"error":{"message":"no"},', b""),
    (b"", b',"\\u0065rror":"no"'),
    (b'"content":"elsewhere",', b""),
    (b'"arguments":"elsewhere",', b',"content":"again"'),
    (b"", b',"choices":[]'),
    (b'"choices":[{"delta":{"content":"hidden"}}],', b""),
    (b"", b',"p":"a","obfuscation":"xyz"'),
    (b"", b',"logprob":-Infinity'),
]


@pytest.mark.parametrize("first", ROUNDS, ids=repr)
@pytest.mark.parametrize("second", ROUNDS, ids=repr)
def test_what_stands_around_the_text_is_judged_as_if_read(
    first: tuple[bytes, bytes], second: tuple[bytes, bytes]
) -> None:
    a, b = ([shaped(b'"%b"' % text, *around) for text in TEXTS[:3]] for around in (first, second))
    require_the_same([event(ROLE), *a, *b, *a])
    require_the_same([event(ROLE), *a, event(USAGE), *a, event(USAGE), *b])
    require_the_same([event(ROLE) + b"".join([*a, *b, *a, *b])], keep_usage=True)


def test_events_of_one_shape_are_not_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    reads = ChatMeter._reads
    monkeypatch.setattr(ChatMeter, "_reads", lambda self, data: read.append(data) or reads(self, data))  # type: ignore[func-returns-value]
    meter = ChatMeter(keep_usage=False)
    words = [shaped(b'"%b"' % text) for text in TEXTS]
    raw = b"".join([*words * 9, event(STOP), event(USAGE), event("[DONE]")])
    for start, end in pairwise([0, 500, 1001, 2000, len(raw)]):
        meter.feed(raw[start:end])
    assert meter.ended
    assert meter.output_bytes == 9 * sum(len(json.loads(b'"%b"' % text).encode()) for text in TEXTS)
    assert len(read) == 1 + 3 + 2  # the first, those that were cut, and the last two


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "hm"},
        {"content": "", "reasoning_content": "hm"},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a'}}]},
        {"role": "assistant", "content": "x", "refusal": None},
    ],
    ids=str,
)
def test_reasoning_and_the_arguments_of_tools_are_texts_too(delta: dict[str, Any]) -> None:
    same = event({"choices": [{"index": 0, "delta": delta}, {"index": 1, "delta": {"content": ["more"]}}]})
    meter = require_the_same([event(ROLE), same, same, same + same])
    assert meter._shape is not None


def test_where_every_event_has_a_shape_of_its_own_they_are_soon_no_longer_learned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learned: list[bytes] = []
    shape_of = chat.shape_of
    monkeypatch.setattr(chat, "shape_of", lambda one, size: learned.append(one) or shape_of(one, size))  # type: ignore[func-returns-value]
    require_the_same([event(content("x", created=n)) for n in range(100)])
    assert len(learned) == chat.LESSONS


PART = st.sampled_from(
    [
        *[shaped(slot) for slot in SLOTS],
        *[shaped(b'"x"', *around) for around in ROUNDS],
        *[event(chunk) for chunk in (ROLE, STOP, TOOL, ERROR, USAGE, content("é"), "[DONE]", "{", "")],
        *[event(chunk, "\r\n") for chunk in (ROLE, content("x"), USAGE)],
        *(b": ping\n\n", b"\n", b"\r", b"\r\n", b"event: x\n", b"data: "),
    ]
)
COMMON = st.sampled_from([shaped(b'"%b"' % text) for text in TEXTS])


@given(
    parts=st.lists(st.one_of(COMMON, COMMON, PART), max_size=12),
    at=st.lists(st.integers(0, 1500), max_size=8),
    keep_usage=st.booleans(),
)
@example(parts=[shaped(b'"a"'), b"\n", shaped(b'"b"'), b"\n", event(USAGE)], at=[], keep_usage=False)
@settings(deadline=None, max_examples=400)
def test_random_events_cut_anywhere_are_judged_as_if_read(parts: list[bytes], at: list[int], keep_usage: bool) -> None:
    raw = b"".join(parts)
    bounds = [0, *sorted(min(offset, len(raw)) for offset in at), len(raw)]
    require_the_same([raw[start:end] for start, end in pairwise(bounds)], keep_usage=keep_usage)
    require_the_same(parts, keep_usage=keep_usage)
