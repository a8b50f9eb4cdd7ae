"""Prices, and what an answer costs: exact fractions, rounded up once to whole nano-USD (1e-9 USD)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from .answers import Usage
from .pricelist import PriceList

Rate = Mapping[str, Fraction]
"""USD for one unit: a variant, as `size`, `quality` or `quality:size` spell it -> its price; always with `default`."""

NUSD_PER_USD = 1_000_000_000
TOKENS_PER_PRICE = CHARACTERS_PER_PRICE = 1_000_000
MS_PER_SECOND, MS_PER_MINUTE = 1000, 60_000
TOKEN_UNITS = (
    "input", "cached_input", "output", "image_input", "image_output", "audio_input", "audio_output",
)  # fmt: skip
WITH_VARIANTS = ("image", "video_second")
UNITS = (*TOKEN_UNITS, *WITH_VARIANTS, "audio_minute", "character", "request")
ENDPOINTS = ("chat", "embeddings", "images", "image_edits", "videos", "transcriptions", "speech")


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What one model costs, exactly, per unit of UNITS; and the endpoints that it serves."""

    rates: Mapping[str, Rate]
    endpoints: frozenset[str]

    @property
    def by_tokens(self) -> bool:
        """Whether its answers report tokens, where their endpoint has any, and are charged by them."""
        return "input" in self.rates

    def cost_nusd(self, usage: Usage) -> int:
        """Nano-USD for one answer, rounded up once: by tokens if it has any and they have a price, else by units."""
        tokens = usage.input_tokens + usage.output_tokens
        work = self._tokens(usage) if tokens and self.by_tokens else self._units(usage)
        return math.ceil((work + self._rate("request")) * NUSD_PER_USD)

    def _tokens(self, usage: Usage) -> Fraction:
        special = usage.cached_input_tokens + usage.image_input_tokens + usage.audio_input_tokens
        shaped = usage.image_output_tokens + usage.audio_output_tokens
        counted = (
            (usage.input_tokens - special) * self._rate("input"),
            usage.cached_input_tokens * self._rate("cached_input", "input"),
            usage.image_input_tokens * self._rate("image_input", "input"),
            usage.audio_input_tokens * self._rate("audio_input", "input"),
            (usage.output_tokens - shaped) * self._rate("output"),
            usage.image_output_tokens * self._rate("image_output", "output"),
            usage.audio_output_tokens * self._rate("audio_output", "output"),
        )
        return sum(counted, Fraction(0)) / TOKENS_PER_PRICE

    def _units(self, usage: Usage) -> Fraction:
        return (
            usage.images * self._variant("image", usage)
            + usage.video_ms * self._variant("video_second", usage) / MS_PER_SECOND
            + usage.audio_ms * self._rate("audio_minute") / MS_PER_MINUTE
            + usage.characters * self._rate("character") / CHARACTERS_PER_PRICE
        )

    def _rate(self, *units: str) -> Fraction:
        """The price of the first of these units that has one; 0 if none has."""
        return next((self.rates[unit]["default"] for unit in units if unit in self.rates), Fraction(0))

    def _variant(self, unit: str, usage: Usage) -> Fraction:
        """By `quality:size`, size, quality, or the default: the first that is priced."""
        rate = self.rates.get(unit, {})
        size, quality = _spelled(usage.size), _spelled(usage.quality)
        wanted = (f"{quality}:{size}", size, quality, "default")
        return next((rate[variant] for variant in wanted if variant in rate), Fraction(0))


def read_prices(prices: PriceList) -> dict[str, ModelPrice]:
    """The price list, checked; units other than UNITS are left aside. Raises ValueError naming model and unit."""
    return {model: _price(model, units) for model, units in prices.items()}


def served(units: Mapping[str, object]) -> frozenset[str]:
    """The endpoints that a model of the price list serves: those it names, else those its units are made for."""
    named = units.get("endpoints")
    return frozenset(_by_units(units)) if named is None else frozenset(map(str, _array(named)))


def _by_units(units: Mapping[str, object]) -> Iterator[str]:
    painted = "image" in units or {"image_output", "input"} <= units.keys()
    heard = "audio_minute" in units or "audio_input" in units
    filmed, spoken, written = "video_second" in units, "character" in units, "output" in units
    if painted:
        yield from ("images", "image_edits")
    if filmed:
        yield "videos"
    if heard:
        yield "transcriptions"
    if spoken:
        yield "speech"
    if written:
        yield "chat"
    if not (painted or filmed or heard or spoken or written) and ("input" in units or "request" in units):
        yield "embeddings"


def _price(model: str, units: Mapping[str, object]) -> ModelPrice:
    if unknown := served(units) - frozenset(ENDPOINTS):
        raise ValueError(f"{model}, endpoints: no {', '.join(sorted(unknown))}; there are: {', '.join(ENDPOINTS)}")
    return ModelPrice({unit: _read_rate(model, unit, units[unit]) for unit in UNITS if unit in units}, served(units))


def _read_rate(model: str, unit: str, value: object) -> Rate:
    if unit not in WITH_VARIANTS or not isinstance(value, Mapping):
        return {"default": _amount(model, unit, value)}
    rate = {_spelled(str(variant)): _amount(model, f"{unit}.{variant}", price) for variant, price in value.items()}
    if "default" not in rate:
        raise ValueError(f"price of {model}, {unit}: variants need a default beside them")
    return rate


def _spelled(variant: str) -> str:
    return variant.strip().lower()


def _array(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _amount(model: str, unit: str, value: object) -> Fraction:
    problem = f"price of {model}, {unit}: {value!r} is not an amount of USD; write a number such as 1.25"
    if isinstance(value, bool) or not isinstance(value, str | Decimal | int):
        raise ValueError(problem + " (text, Decimal or int: a float is not exact)")
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise ValueError(problem) from None
    if not amount.is_finite() or amount < 0:
        raise ValueError(problem)
    return Fraction(amount)
