"""What the official SDKs say of their own time-outs and retries."""

from __future__ import annotations

from math import inf

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxyy_proxy.rules.hints import MOST_MARGIN_S, is_retry, patience_s, retry_after_s
from oxyy_proxy.sweep import SWEEP_EVERY_S

PYTHON = "x-stainless-read-timeout"
NODE = "x-stainless-timeout"
RETRIES = "x-stainless-retry-count"

GARBAGE = [
    "",
    " ",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "Infinity",
    "1e400",
    "-1",
    "-0.0",
    "0",
    "10, 20",
    "10s",
    "0x10",
    "None",
    "9" * 5000,
]


@pytest.mark.parametrize("name", [PYTHON, NODE])
@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("600", 599.0),
        ("600.0", 599.0),
        ("10", 9.0),
        ("5", 4.5),
        ("1", 0.8),
        ("0.5", 0.3),
        ("0.1", 0.05),
        (" 30 ", 29.0),
    ],
)
def test_a_clients_patience_ends_a_little_sooner_here(name: str, said: str, left: float) -> None:
    assert patience_s({name: said}) == pytest.approx(left)


@given(st.floats(1e-9, 1e9))
def test_the_margin_covers_that_waits_are_ended_late(said: float) -> None:
    left = patience_s({NODE: repr(said)})
    assert left is not None
    assert 0 < left < said
    assert said - left <= MOST_MARGIN_S * 1.001
    if said >= 0.4:
        assert said - left > SWEEP_EVERY_S


@pytest.mark.parametrize("name", [PYTHON, NODE])
@pytest.mark.parametrize("said", GARBAGE)
def test_garbage_is_ignored(name: str, said: str) -> None:
    assert patience_s({name: said}) is None
    other = NODE if name == PYTHON else PYTHON
    assert patience_s({name: said, other: "10"}) == 9.0


def test_without_a_hint_nothing_is_known() -> None:
    assert patience_s({}) is None
    assert not is_retry({})


@pytest.mark.parametrize(("said", "retries"), [("0", False), ("1", True), ("2", True), ("12", True)])
def test_a_client_says_that_it_tries_again(said: str, retries: bool) -> None:
    assert is_retry({RETRIES: said}) is retries


@pytest.mark.parametrize("said", ["", "nan", "inf", "-1", "yes", "1, 2", "1e400"])
def test_a_count_that_is_none_is_no_retry(said: str) -> None:
    assert not is_retry({RETRIES: said})


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("3", 3.0), ("0", 0.0), ("0.5", 0.5), ("-3", 0.0), ("", 0.0), ("soon", 0.0), ("nan", 0.0), ("1e400", 0.0),
     ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0)],
)  # fmt: skip
def test_retry_after_is_seconds(said: str, seconds: float) -> None:
    assert retry_after_s(said) == seconds


@given(st.text(max_size=30))
def test_no_text_is_more_than_ignored(said: str) -> None:
    assert 0 < (patience_s({PYTHON: said}) or 1.0) < inf
    assert 0 <= retry_after_s(said) < inf
    assert is_retry({RETRIES: said}) in (True, False)


def test_the_python_sdk_sends_them_by_these_names() -> None:
    options = openai._models.FinalRequestOptions(method="post", url="/chat/completions", timeout=20.0)
    client = openai.OpenAI(api_key="k", base_url="http://127.0.0.1:1/v1")
    headers = client._build_headers(options, retries_taken=1)
    assert (patience_s(headers), is_retry(headers)) == (19.0, True)
    client.close()
