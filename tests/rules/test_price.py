"""Money is exact: integers, rounded up once, and never more than was held."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyy_proxy.rules.price import cost_nusd, held_tokens, likely_tokens, usd, worst_nusd
from oxyy_proxy.rules.types import NUSD_PER_USD, PRICE_SCALE, Price, Usage

RATE = st.integers(0, 1000 * NUSD_PER_USD)
PRICES = st.fixed_dictionaries(
    {"input": RATE},
    optional=dict.fromkeys(("cached_input", "audio_input", "output", "audio_output", "request"), RATE),
).map(lambda rates: {unit: Price(rate) for unit, rate in rates.items()})
COUNT = st.integers(0, 5_000_000)
USAGE = st.builds(Usage, COUNT, COUNT, COUNT, COUNT, COUNT)
GPT_5 = {
    "input": Price(1_250_000_000),
    "cached_input": Price(125_000_000),
    "output": Price(10_000_000_000),
}


def exact(usage: Usage, prices: dict[str, Price]) -> Fraction:
    """The cost in nano-USD, unrounded: each kind of token times its price per million."""
    per_token = {unit: Fraction(price.default, PRICE_SCALE) for unit, price in prices.items()}
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    audio_in = min(usage.audio_input_tokens, usage.input_tokens - cached)
    audio_out = min(usage.audio_output_tokens, usage.output_tokens)
    text_in, text_out = per_token["input"], per_token.get("output", Fraction(0))
    return (
        per_token.get("request", Fraction(0))
        + text_in * (usage.input_tokens - cached - audio_in)
        + per_token.get("cached_input", text_in) * cached
        + per_token.get("audio_input", text_in) * audio_in
        + text_out * (usage.output_tokens - audio_out)
        + per_token.get("audio_output", text_out) * audio_out
    )


@given(usage=USAGE, prices=PRICES)
@settings(deadline=None, max_examples=200)
def test_a_cost_is_the_exact_sum_rounded_up_once(usage: Usage, prices: dict[str, Price]) -> None:
    assert cost_nusd(usage, prices) == ceil(exact(usage, prices))


@pytest.mark.parametrize(
    ("usage", "nusd"),
    [
        (Usage(), 0),
        (Usage(input_tokens=1), 1250),
        (Usage(output_tokens=1), 10_000),
        (Usage(input_tokens=1_000_000, output_tokens=1_000_000), 11_250_000_000),
        (Usage(input_tokens=100, cached_input_tokens=40), 60 * 1250 + 40 * 125),
        (Usage(input_tokens=100, cached_input_tokens=400), 100 * 125),
        (Usage(input_tokens=100, audio_input_tokens=10, output_tokens=5, audio_output_tokens=5), 100 * 1250 + 50_000),
    ],
)
def test_what_gpt_5_costs(usage: Usage, nusd: int) -> None:
    assert cost_nusd(usage, GPT_5) == nusd


def test_parts_of_a_nano_dollar_are_rounded_up_once_and_not_per_kind() -> None:
    third = {"input": Price(400_000), "output": Price(400_000)}  # 0.4 nano-USD a token
    assert cost_nusd(Usage(input_tokens=1), third) == 1
    assert cost_nusd(Usage(input_tokens=1, output_tokens=1), third) == 1
    assert cost_nusd(Usage(input_tokens=2, output_tokens=1), third) == 2


def test_a_price_per_request_is_added_once() -> None:
    assert cost_nusd(Usage(), {"input": Price(0), "request": Price(5 * PRICE_SCALE)}) == 5
    assert worst_nusd(0, 0, {"input": Price(0), "request": Price(5 * PRICE_SCALE)}) == 5


@given(
    tokens_in=COUNT,
    tokens_out=COUNT,
    prices=PRICES,
    part=st.tuples(*[st.floats(0, 1)] * 5),
)
@settings(deadline=None, max_examples=300)
def test_the_worst_case_is_never_less_than_the_cost(
    tokens_in: int, tokens_out: int, prices: dict[str, Price], part: tuple[float, ...]
) -> None:
    used_in, used_out = int(tokens_in * part[0]), int(tokens_out * part[1])
    usage = Usage(used_in, int(used_in * part[2]), int(used_in * part[3]), used_out, int(used_out * part[4]))
    assert worst_nusd(tokens_in, tokens_out, prices) >= cost_nusd(usage, prices)


def test_the_worst_case_covers_every_split_of_few_tokens() -> None:
    dear = [{"input": 1}, {"cached_input": 9}, {"audio_input": 9}, {"audio_output": 9}, {"output": 9}, {"request": 9}]
    for odd in dear:
        prices = {unit: Price(rate * PRICE_SCALE) for unit, rate in ({"input": 2, "output": 3} | odd).items()}
        worst = worst_nusd(4, 3, prices)
        costs = {
            cost_nusd(Usage(tokens_in, cached, audio, tokens_out, audio_out), prices)
            for tokens_in in range(5)
            for cached in range(6)
            for audio in range(6)
            for tokens_out in range(4)
            for audio_out in range(5)
        }
        assert max(costs) == worst  # and it is no more than the worst


@given(nusd=st.integers(-(10**20), 10**20))
@settings(deadline=None, max_examples=200)
def test_usd_is_exact_and_reads_back(nusd: int) -> None:
    written = usd(nusd)
    assert Decimal(written) * NUSD_PER_USD == nusd
    assert re.fullmatch(r"-?(0|[1-9]\d*)\.(\d\d|\d{2,8}[1-9])", written)


@pytest.mark.parametrize(
    ("nusd", "written"),
    [
        (0, "0.00"),
        (1, "0.000000001"),
        (1_250_000, "0.00125"),
        (10**9, "1.00"),
        (1_500_000_000, "1.50"),
        (-1, "-0.000000001"),
        (-2_500_000_000, "-2.50"),
    ],
)
def test_usd_has_at_least_two_decimals(nusd: int, written: str) -> None:
    assert usd(nusd) == written


@pytest.mark.parametrize(("size", "held", "likely"), [(0, 0, 0), (1, 1, 1), (2, 1, 1), (3, 2, 1), (4, 2, 1), (9, 5, 3)])
def test_text_is_held_at_two_bytes_a_token_and_estimated_at_four(size: int, held: int, likely: int) -> None:
    assert (held_tokens(size), likely_tokens(size)) == (held, likely)
