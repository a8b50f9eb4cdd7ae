"""Prices, and what an answer costs: exact fractions, rounded up once to whole nano-USD (1e-9 USD)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from .answers import Usage

Amount = str | Decimal | int
PriceList = Mapping[str, Mapping[str, object]]
"""Model -> unit -> USD: per 1M tokens for input, cached_input and output, per request for request."""

NUSD_PER_USD = 1_000_000_000
TOKENS_PER_PRICE = 1_000_000
UNITS = ("input", "cached_input", "output", "request")

DEFAULT_PRICES: PriceList = {
    "gpt-5": {"input": "1.25", "cached_input": "0.125", "output": "10.00"},
    "gpt-5-mini": {"input": "0.25", "cached_input": "0.025", "output": "2.00"},
    "claude-opus-4.6": {"input": "15.00", "cached_input": "1.50", "output": "75.00"},
    "chatgpt-4o-latest": {"input": "5.00", "output": "15.00"},
    "text-embedding-3-large": {"input": "0.13"},
    "text-embedding-3-small": {"input": "0.02"},
    "gemini-embedding-001": {"input": "0.15"},
}


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """USD per 1M tokens and per request, exact; None where the model has no such price."""

    input: Fraction | None
    cached_input: Fraction | None
    output: Fraction | None
    request: Fraction | None

    @property
    def endpoints(self) -> frozenset[str]:
        """What the model serves: chat if it has a price for output, else embeddings if it has any price at all."""
        if self.output is not None:
            return frozenset({"chat"})
        return frozenset({"embeddings"}) if self.input is not None or self.request is not None else frozenset()

    def cost_nusd(self, usage: Usage) -> int:
        """Nano-USD for one answer, rounded up once."""
        fresh = self.input or Fraction(0)
        cached = fresh if self.cached_input is None else self.cached_input
        tokens = (
            (usage.input_tokens - usage.cached_input_tokens) * fresh
            + usage.cached_input_tokens * cached
            + usage.output_tokens * (self.output or 0)
        )
        return math.ceil((tokens / TOKENS_PER_PRICE + (self.request or 0)) * NUSD_PER_USD)


def read_prices(prices: PriceList) -> dict[str, ModelPrice]:
    """The price list, checked; units other than UNITS are left aside. Raises ValueError naming model and unit."""
    return {
        model: ModelPrice(**{unit: _amount(model, unit, units[unit]) if unit in units else None for unit in UNITS})
        for model, units in prices.items()
    }


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
