"""Money is exact: integers, rounded up once, and never more than was held."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from decimal import Decimal
from fractions import Fraction
from itertools import product
from math import ceil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyy_proxy.rules.price import (
    cost_nusd,
    dearest_variant,
    held_tokens,
    likely_tokens,
    usd,
    variant_price,
    worst_nusd,
)
from oxyy_proxy.rules.types import NUSD_PER_USD, PRICE_SCALE, Price, Usage

USD = NUSD_PER_USD * PRICE_SCALE
"""One USD for one unit."""

RATE = st.integers(0, 1000 * NUSD_PER_USD)
UNIT_RATE = st.one_of(st.integers(0, 10 * PRICE_SCALE), st.integers(0, 10**6 * USD))
TOKEN_UNITS = ("cached_input", "audio_input", "image_input", "output", "audio_output", "image_output")
PARTS = ("hd", "low", "standard", "auto", "1024x1024", "1024x1792", "1080p", "720")
VARIANTS = st.dictionaries(
    st.one_of(st.sampled_from(PARTS), st.tuples(st.sampled_from(PARTS), st.sampled_from(PARTS)).map(":".join)),
    UNIT_RATE,
    max_size=6,
)
WITH_VARIANTS = st.builds(Price, UNIT_RATE, VARIANTS)
TOKEN_PRICES = st.fixed_dictionaries(
    {}, optional={"input": RATE.map(Price)} | dict.fromkeys(TOKEN_UNITS, RATE.map(Price))
)
UNIT_PRICES = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("image", "video_second"), WITH_VARIANTS)
    | dict.fromkeys(("character", "audio_minute", "request"), UNIT_RATE.map(Price)),
)
PRICES = st.tuples(TOKEN_PRICES, UNIT_PRICES).map(lambda both: both[0] | both[1])
COUNT = st.one_of(st.just(0), st.integers(0, 3), st.integers(0, 5_000_000))
SPELT = st.sampled_from([*PARTS, "", " HD ", "Low", "AUTO", "1024X1792", " 720", "1024 x 1024", "hd:1024x1024", "4k"])
USAGE = st.builds(
    Usage,
    input_tokens=COUNT,
    cached_input_tokens=COUNT,
    audio_input_tokens=COUNT,
    output_tokens=COUNT,
    audio_output_tokens=COUNT,
    image_input_tokens=COUNT,
    image_output_tokens=COUNT,
    images=COUNT,
    video_ms=COUNT,
    audio_ms=COUNT,
    characters=COUNT,
    quality=SPELT,
    size=SPELT,
)
GPT_5 = {
    "input": Price(1_250_000_000),
    "cached_input": Price(125_000_000),
    "output": Price(10_000_000_000),
}
GPT_IMAGE_1 = {
    "input": Price(5_000_000_000),
    "image_input": Price(10_000_000_000),
    "image_output": Price(40_000_000_000),
}
DALL_E_3 = Price(
    4 * USD // 100,
    {"standard": 4 * USD // 100, "1024x1792": 8 * USD // 100, "hd": 9 * USD // 100, "hd:1024x1792": 12 * USD // 100},
)


def exact(usage: Usage, prices: dict[str, Price]) -> Fraction:
    """The cost in nano-USD, unrounded."""
    each = {unit: Fraction(price.default, PRICE_SCALE) for unit, price in prices.items()}
    once = each.get("request", Fraction(0))
    if "input" in prices and usage.tokens:
        return once + exact_tokens(usage, each)
    for unit in ("image", "video_second"):
        if unit in prices:
            each[unit] = Fraction(expected_variant(prices[unit], usage.quality, usage.size), PRICE_SCALE)
    return (
        once
        + each.get("image", 0) * usage.images
        + each.get("video_second", 0) * Fraction(usage.video_ms, 1000)
        + each.get("audio_minute", 0) * Fraction(usage.audio_ms, 60_000)
        + each.get("character", 0) * usage.characters
    )


def exact_tokens(usage: Usage, each: dict[str, Fraction]) -> Fraction:
    """Each kind of token times its price; every token is of one kind, the first that claims it."""
    text_in, text_out = each["input"], each.get("output", each.get("image_output", Fraction(0)))
    total = Fraction(0)
    for left, text, kinds in (
        (
            usage.input_tokens,
            text_in,
            {
                "cached_input": usage.cached_input_tokens,
                "audio_input": usage.audio_input_tokens,
                "image_input": usage.image_input_tokens,
            },
        ),
        (
            usage.output_tokens,
            text_out,
            {"audio_output": usage.audio_output_tokens, "image_output": usage.image_output_tokens},
        ),
    ):
        for unit, claimed in kinds.items():
            taken = min(claimed, left)
            left -= taken
            total += taken * each.get(unit, text)
        total += left * text
    return total


def expected_variant(price: Price, quality: str, size: str) -> int:
    quality, size = ("" if ":" in text else text.strip().lower() for text in (quality, size))
    rates = [price.variants.get(name) for name in (f"{quality}:{size}", size, quality)]
    return next((rate for rate in rates if rate is not None), price.default)


@given(usage=USAGE, prices=PRICES)
@settings(deadline=None, max_examples=500)
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
    for prices in ({}, {"input": Price(0)}, {"image": Price(0)}):
        once = prices | {"request": Price(5 * PRICE_SCALE)}
        for usage in (Usage(), Usage(input_tokens=3), Usage(images=2), Usage(input_tokens=3, images=2)):
            assert cost_nusd(usage, once) == worst_nusd(usage, once) == 5


@pytest.mark.parametrize(
    ("usage", "nusd"),
    [
        (Usage(input_tokens=100, output_tokens=10, image_output_tokens=10), 100 * 5_000 + 10 * 40_000),
        (Usage(input_tokens=100, image_input_tokens=60), 40 * 5_000 + 60 * 10_000),
        (Usage(input_tokens=100, cached_input_tokens=50, image_input_tokens=60), 50 * 5_000 + 50 * 10_000),
        (Usage(output_tokens=10), 10 * 40_000),  # it did not say of what kind, and text has no price
        (Usage(images=3), 0),
    ],
)
def test_what_gpt_image_1_costs_by_tokens(usage: Usage, nusd: int) -> None:
    assert cost_nusd(usage, GPT_IMAGE_1) == nusd


@pytest.mark.parametrize(
    ("usage", "unit", "price", "nusd"),
    [
        (Usage(images=2), "image", 4 * USD // 100, 80_000_000),
        (Usage(video_ms=4000), "video_second", 4 * USD // 10, 1_600_000_000),
        (Usage(video_ms=1), "video_second", 1_000 * PRICE_SCALE, 1),
        (Usage(audio_ms=90_000), "audio_minute", 6 * USD // 1000, 9_000_000),
        (Usage(audio_ms=1), "audio_minute", 6 * USD // 1000, 100),
        (Usage(audio_ms=1), "audio_minute", PRICE_SCALE, 1),
        (Usage(characters=11), "character", 30 * NUSD_PER_USD, 330_000),
    ],
)
def test_what_a_unit_costs(usage: Usage, unit: str, price: int, nusd: int) -> None:
    assert cost_nusd(usage, {unit: Price(price)}) == worst_nusd(usage, {unit: Price(price)}) == nusd


def test_units_count_only_where_the_upstream_says_no_tokens_or_tokens_have_no_price() -> None:
    units, tokens = {"image": Price(7 * PRICE_SCALE)}, {"input": Price(PRICE_SCALE), "output": Price(PRICE_SCALE)}
    both = Usage(input_tokens=2, output_tokens=1, images=2)
    assert cost_nusd(both, units | tokens) == 3
    assert cost_nusd(both, units) == 14
    assert cost_nusd(Usage(images=2), units | tokens) == 14
    assert worst_nusd(both, units | tokens) == 14
    assert worst_nusd(both, {"image": Price(1)} | tokens) == 3


@pytest.mark.parametrize(
    ("quality", "size", "cents"),
    [
        ("hd", "1024x1792", 12),
        (" HD", "1024X1792 ", 12),
        ("standard", "1024x1792", 8),
        ("hd", "1024x1024", 9),
        ("", "1024x1792", 8),
        ("hd", "", 9),
        ("", "", 4),
        ("auto", "auto", 4),
        ("ultra", "4k", 4),
        ("hd:1024x1792", "", 4),
        ("", "hd:1024x1792", 4),
    ],
)
def test_a_pair_goes_before_a_size_and_a_size_before_a_quality(quality: str, size: str, cents: int) -> None:
    assert variant_price(DALL_E_3, quality, size) == cents * USD // 100


@pytest.mark.parametrize(
    ("quality", "size", "cents"),
    [
        ("standard", "1024x1792", 8),
        ("standard", " 1024X1792", 8),
        ("standard", "", 9),  # of a name alone nobody knows that it is not a size
        ("standard", "auto", 9),
        ("", "1024x1792", 12),
        ("Auto", "1024x1792", 12),
        ("hd", "", 12),
        ("hd", "1024 x 1024", 12),
        ("", "", 12),
        ("ultra", "4k", 12),
    ],
)
def test_what_is_not_known_of_an_image_is_held_at_the_dearest_that_fits(quality: str, size: str, cents: int) -> None:
    assert dearest_variant(DALL_E_3, quality, size) == cents * USD // 100


def test_a_video_whose_resolution_has_a_price_is_held_at_that_price() -> None:
    veo = Price(40, {"1080p": 50, "4k": 200})
    assert [dearest_variant(veo, "", size) for size in ("1080p", " 1080P", "4k", "", "720p")] == [50, 50, 200, 200, 200]
    assert dearest_variant(Price(40), "", "720p") == dearest_variant(Price(40, {"720p": 5}), "", "") == 40


def test_a_variant_called_auto_does_not_lower_what_is_held() -> None:
    price = Price(1, {"auto": 2, "hd": 9})
    assert variant_price(price, "auto", "") == 2
    assert dearest_variant(price, "auto", "auto") == dearest_variant(price, "", "auto") == 9


@given(price=WITH_VARIANTS, quality=SPELT, size=SPELT)
@settings(deadline=None, max_examples=500)
def test_the_dearest_variant_is_one_that_can_be_made(price: Price, quality: str, size: str) -> None:
    dearest = dearest_variant(price, quality, size)
    assert dearest in {price.default, *price.variants.values()}
    assert dearest == max(
        variant_price(price, made_quality, made_size)
        for made_quality in possible(quality, price, 0)
        for made_size in possible(size, price, -1)
    )


def possible(asked: str, price: Price, side: int) -> list[str]:
    """What the quality (side 0) or size (-1) of an answer may be: what was asked, if a price knows it."""
    plain = asked.strip().lower()
    known = plain != "auto" and any(plain == name.split(":")[side] for name in price.variants)
    return [asked] if known else [*PARTS, "", asked, "4k"]


@st.composite
def asked_and_answered(draw: st.DrawFn) -> tuple[Usage, Usage, dict[str, Price]]:
    """The most that a request may consume, an answer that is compatible with it, and prices."""
    asked, prices = draw(USAGE), draw(PRICES)
    told: dict[str, Any] = {
        name: draw(st.integers(0, value)) for name, value in asdict(asked).items() if type(value) is int
    }
    for name, side in (("quality", 0), ("size", -1)):
        known = [possible(getattr(asked, name), price, side) for price in prices.values() if price.variants]
        told[name] = draw(st.sampled_from(min(known, key=len, default=[*PARTS, ""])))
    return asked, replace(asked, **told), prices


@given(case=asked_and_answered())
@settings(deadline=None, max_examples=1000)
def test_the_worst_case_is_never_less_than_the_cost(case: tuple[Usage, Usage, dict[str, Price]]) -> None:
    asked, answered, prices = case
    held = replace(
        asked,
        cached_input_tokens=0,
        audio_input_tokens=0,
        image_input_tokens=0,
        audio_output_tokens=0,
        image_output_tokens=0,
    )
    assert worst_nusd(held, prices) >= cost_nusd(answered, prices)


def test_the_worst_case_covers_every_split_of_few_tokens() -> None:
    units = ("input", "cached_input", "audio_input", "image_input", "output", "audio_output", "image_output", "request")
    for dear in units:
        prices = {unit: Price(rate * PRICE_SCALE) for unit, rate in {"input": 2, "output": 3, dear: 9}.items()}
        worst = worst_nusd(Usage(input_tokens=3, output_tokens=2), prices)
        splits = product(range(4), range(4), range(4), range(3), range(3), range(3), range(4))
        costs = {
            cost_nusd(
                Usage(tokens_in, cached, audio, tokens_out, audio_out, "upstream", image, image_out),
                prices,
            )
            for tokens_in, cached, audio, tokens_out, audio_out, image_out, image in splits
        }
        assert max(costs) == worst  # and it is no more than the worst


@pytest.mark.parametrize(
    "usage",
    [
        Usage(images=128),
        Usage(video_ms=7_200_000),
        Usage(audio_ms=86_400_000),
        Usage(characters=32_000_000),
        Usage(input_tokens=2**31 - 1, output_tokens=2**31 - 1),
    ],
)
def test_the_dearest_request_fits_a_64_bit_column(usage: Usage) -> None:
    each, per_million = Price(10**6 * USD), Price(10**6 * NUSD_PER_USD)
    prices = dict.fromkeys(("image", "video_second", "audio_minute", "request"), each)
    prices |= dict.fromkeys(("input", "output", "character"), per_million)
    assert 0 < cost_nusd(usage, prices) <= worst_nusd(usage, prices) < 2**63


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
