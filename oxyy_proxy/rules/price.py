"""What usage costs, in integer nano-USD rounded up once per record, and the worst it can cost."""

from __future__ import annotations

from collections.abc import Mapping

from oxyy_proxy.rules.types import NUSD_PER_USD, PRICE_SCALE, Price, Usage

BYTES_PER_TOKEN_WORST = 2
"""Text is held at one token per two bytes: no tokenizer that the upstream offers does worse on real text."""

BYTES_PER_TOKEN_LIKELY = 4
"""An answer without usage is estimated at one token per four UTF-8 bytes: right for English, and for Japanese, where
three-byte characters are about 0.75 tokens each; counting characters instead is wrong by 2 to 3 there."""


def cost_nusd(usage: Usage, prices: Mapping[str, Price]) -> int:
    """What `usage` costs. Cached tokens fall back on the input price, audio tokens on their text price."""
    text_in = prices["input"].default
    text_out = _rate(prices, "output", 0)
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    audio_in = min(usage.audio_input_tokens, usage.input_tokens - cached)
    audio_out = min(usage.audio_output_tokens, usage.output_tokens)
    scaled = (
        (usage.input_tokens - cached - audio_in) * text_in
        + cached * _rate(prices, "cached_input", text_in)
        + audio_in * _rate(prices, "audio_input", text_in)
        + (usage.output_tokens - audio_out) * text_out
        + audio_out * _rate(prices, "audio_output", text_out)
        + _rate(prices, "request", 0)
    )
    return _round_up(scaled)


def worst_nusd(input_tokens: int, output_tokens: int, prices: Mapping[str, Price]) -> int:
    """The most that this many tokens can cost, whichever kind the upstream counts them as."""
    dearest_in = max(_rate(prices, unit, 0) for unit in ("input", "cached_input", "audio_input"))
    dearest_out = max(_rate(prices, unit, 0) for unit in ("output", "audio_output"))
    return _round_up(input_tokens * dearest_in + output_tokens * dearest_out + _rate(prices, "request", 0))


def held_tokens(size_bytes: int) -> int:
    """Tokens to hold for text of this size."""
    return -(-size_bytes // BYTES_PER_TOKEN_WORST)


def likely_tokens(size_bytes: int) -> int:
    """Tokens to charge for text of this size when the upstream did not say."""
    return -(-size_bytes // BYTES_PER_TOKEN_LIKELY)


def usd(nusd: int) -> str:
    """nano-USD as a decimal string of USD, exact: 1250000 -> "0.00125"; at least two decimals."""
    sign = "-" if nusd < 0 else ""
    whole, rest = divmod(abs(nusd), NUSD_PER_USD)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{decimals}"


def _rate(prices: Mapping[str, Price], unit: str, otherwise: int) -> int:
    price = prices.get(unit)
    return otherwise if price is None else price.default


def _round_up(scaled: int) -> int:
    return -(-scaled // PRICE_SCALE)
