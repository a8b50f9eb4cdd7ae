"""Chat: the URLs that the upstream is asked to fetch, wherever in a message they stand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from oxyy_proxy.endpoints import chat
from oxyy_proxy.endpoints.chat import ChatAsk
from oxyy_proxy.errors import InvalidJson, InvalidValue
from oxyy_proxy.rules.types import PartTokens
from oxyy_proxy.rules.urls import require_public
from tests.rules.policies import model

URL = "https://example.org/a.png"
WHERE = "messages[0].content[0]."
TEXT = {"type": "text", "text": "What is this?"}


def urls(*contents: Any) -> list[tuple[str, str]]:
    """Of a request with one message for each content."""
    messages = [{"role": "user", "content": content} for content in contents]
    return list(ChatAsk(json.dumps({"model": "gpt-5", "messages": messages}).encode()).urls)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ({"type": "image_url", "image_url": {"url": URL, "detail": "high"}}, "image_url"),
        ({"type": "image_url", "image_url": URL}, "image_url"),
        ({"type": "image", "source": {"type": "url", "url": URL}}, "source"),
        ({"type": "video_url", "video_url": {"url": URL}}, "video_url"),
        ({"type": "input_audio", "input_audio": {"data_url": URL}}, "input_audio"),
        ({"type": "file", "file": {"file_url": URL}}, "file"),
        ({"type": "input_file", "file_url": URL}, "file_url"),
        ({"type": "image", "imageUrl": URL}, "imageUrl"),
        ({"type": "image", "IMAGE_URL": {"URL": URL}}, "IMAGE_URL"),
        ({"type": "unheard_of", "url": URL}, "url"),
        ({"type": "TEXT", "url": URL}, "url"),
        ({"type": ["text"], "url": URL}, "url"),
        ({"type": None, "image_url": {"url": URL}}, "image_url"),
        ({"image_url": {"url": URL}}, "image_url"),
        ({"type": "image_url", "image_url": [URL]}, "image_url"),
        ({"type": "tool_result", "content": [{"type": "image", "source": {"url": URL}}]}, "content"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_url_is_found_under_whatever_name_the_part_has_for_it(part: dict[str, Any], name: str) -> None:
    assert urls([part]) == [(URL, WHERE + name)]


def test_each_url_has_the_field_it_stands_in() -> None:
    def image(url: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": url}}

    assert urls("text", [TEXT, image("http://a"), "x", image("http://b")], None, [{"a_url": "c", "b_url": "d"}]) == [
        ("http://a", "messages[1].content[1].image_url"),
        ("http://b", "messages[1].content[3].image_url"),
        ("c", "messages[3].content[0].a_url"),
        ("d", "messages[3].content[0].b_url"),
    ]


@pytest.mark.parametrize("url", ["ftp://x", "", " http://x", "//x", "\nhttp://x", " data:,x", "dat\ta:,x", "file:///"])
def test_a_url_is_handed_on_for_judgement_as_it_is(url: str) -> None:
    assert urls([{"type": "image_url", "image_url": {"url": url}}]) == [(url, WHERE + "image_url")]


@pytest.mark.parametrize("url", ["data:image/png;base64,iVBORw0K", "DATA:,x", "data:http://10.0.0.1/", None, 1, True])
def test_what_is_inline_or_no_text_is_fetched_from_nowhere(url: object) -> None:
    assert urls([{"type": "image_url", "image_url": {"url": url}}, {"type": "image_url", "image_url": url}]) == []


@pytest.mark.parametrize(
    "content",
    [
        None,
        "see http://10.0.0.1/",
        [{"type": "text", "text": "see http://10.0.0.1/", "url": "http://10.0.0.1/", "image_url": {"url": URL}}],
        [{"type": "input_audio", "input_audio": {"data": URL, "format": "wav", "url_of": URL}}],
        ["http://10.0.0.1/", 1, None, []],
        [{"type": "image_url"}, {}],
    ],
    ids=str,
)
def test_text_is_never_a_url_to_fetch(content: object) -> None:
    assert urls(content) == []


@pytest.mark.parametrize("name", ["\ud83c_url", "ü_url", "'\"\\url", "\n" * 70 + "url", "x" * 100_000 + "url"])
def test_a_name_that_the_client_made_up_can_be_told_in_an_error(name: str) -> None:
    ((url, param),) = urls([{"type": "image", name: "http://10.0.0.1/"}])
    with pytest.raises(InvalidValue) as caught:
        require_public(url, param)
    answer = json.dumps(caught.value.payload(), ensure_ascii=False).encode()
    assert len(answer) < 1000
    assert param.isprintable()


def test_text_alone_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked(*_: object) -> None:
        raise AssertionError("looked for URLs in text")

    monkeypatch.setattr(chat, "_urls", looked)
    assert urls(*["x"] * 100, [TEXT] * 100, None, []) == []


def test_numbers_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[object] = []
    look = chat._urls

    def looking(name: str, value: object) -> Iterator[str]:
        looked_at.append(value)
        return look(name, value)

    monkeypatch.setattr(chat, "_urls", looking)
    numbers = [1, 2.5, None, True] * 1000  # a body has room for 16 million
    assert urls([{"type": "x", "y_url": [*numbers, URL]}]) == [(URL, WHERE + "y_url")]
    assert len(looked_at) == 3


def test_a_url_costs_the_hold_its_part_and_not_its_length() -> None:
    def held(url: str) -> int:
        messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
        body = json.dumps({"messages": messages}).encode()
        return ChatAsk(body).worst(model("gpt-5"), PartTokens()).input_tokens

    assert held(URL) == held(URL + "?" + "x" * 8000)


def test_a_url_that_is_there_twice_is_refused() -> None:
    part = b'{"type": "image_url", "image_url": {"url": "http://10.0.0.1/", "url": "https://images.example/a.png"}}'
    with pytest.raises(InvalidJson, match="twice"):
        ChatAsk(b'{"model": "gpt-5", "messages": [{"role": "user", "content": [' + part + b"]}]}")
