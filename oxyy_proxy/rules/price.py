"""What usage costs, in integer nano-USD rounded up once per record, and the worst it can cost. `-(-a // b)` rounds up.

A model is charged by tokens where it has a price for input and the upstream says how many there were, else by its
units: images, seconds of video, minutes of audio, characters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from oxyy_proxy.rules.types import NUSD_PER_USD, PRICE_SCALE, Price, Usage

BYTES_PER_TOKEN_WORST = 2
"""Text is held at one token per two bytes: no tokenizer that the upstream offers does worse on real text."""

BYTES_PER_TOKEN_LIKELY = 4
"""An answer without usage is estimated at one token per four UTF-8 bytes: right for English, and for Japanese, where
three-byte characters are about 0.75 tokens each; counting characters instead is wrong by 2 to 3 there."""

_MS_PER_MINUTE = 60_000
_UNIT_SCALE = PRICE_SCALE * _MS_PER_MINUTE
"""What sums over units are kept in: nano-USD per this, so that milliseconds at a price per minute stay integers."""

_INPUT_UNITS = ("input", "cached_input", "audio_input", "image_input")
_OUTPUT_UNITS = ("output", "audio_output", "image_output")
_UNDECIDED = ("", "auto")
"""A quality or size that leaves the choice to the upstream."""


def cost_nusd(usage: Usage, prices: Mapping[str, Price]) -> int:
    """What `usage` costs. Cached, audio and image tokens fall back on the text price; output without a text price on
    that of image tokens, so that it is never free by mistake."""
    rates = _rates_of(prices)
    if rates.text_in is None or not usage.input_tokens + usage.output_tokens:
        return -(-_units(usage, prices, variant_price) // _UNIT_SCALE)
    scaled = usage.input_tokens * rates.text_in + usage.output_tokens * rates.text_out + rates.per_request
    # Most answers have no tokens of most kinds: what is zero is not looked up.
    if usage.cached_input_tokens or usage.audio_input_tokens or usage.image_input_tokens:
        scaled += _more_in(usage, prices, rates.text_in)
    if usage.audio_output_tokens or usage.image_output_tokens:
        scaled += _more_out(usage, prices, rates.text_out)
    return -(-scaled // PRICE_SCALE)


def worst_nusd(usage: Usage, prices: Mapping[str, Price]) -> int:
    """The most that this usage can cost, whichever kind its tokens are counted as, whichever variant is made where
    quality or size are not known, and whether it is charged by tokens or by units."""
    worst = worst_tokens_nusd(usage.input_tokens, usage.output_tokens, prices)
    if usage.images or usage.video_ms or usage.audio_ms or usage.characters:
        worst = max(worst, -(-_units(usage, prices, dearest_variant) // _UNIT_SCALE))
    return worst


def worst_tokens_nusd(tokens_in: int, tokens_out: int, prices: Mapping[str, Price]) -> int:
    """The most that so many tokens can cost, whichever kind they are counted as."""
    rates = _rates_of(prices)
    return -(-(tokens_in * rates.dearest_in + tokens_out * rates.dearest_out + rates.per_request) // PRICE_SCALE)


def _more_in(usage: Usage, prices: Mapping[str, Price], text_in: int) -> int:
    """What input tokens that are not plain text cost beyond it: nano-USD per `PRICE_SCALE`, below zero for less."""
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    audio = min(usage.audio_input_tokens, usage.input_tokens - cached)
    image = min(usage.image_input_tokens, usage.input_tokens - cached - audio)
    return (
        cached * (_rate(prices, "cached_input", text_in) - text_in)
        + audio * (_rate(prices, "audio_input", text_in) - text_in)
        + image * (_rate(prices, "image_input", text_in) - text_in)
    )


def _more_out(usage: Usage, prices: Mapping[str, Price], text_out: int) -> int:
    """As `_more_in`, of output tokens."""
    audio = min(usage.audio_output_tokens, usage.output_tokens)
    image = min(usage.image_output_tokens, usage.output_tokens - audio)
    return audio * (_rate(prices, "audio_output", text_out) - text_out) + image * (
        _rate(prices, "image_output", text_out) - text_out
    )


def _units(usage: Usage, prices: Mapping[str, Price], rate_of: Callable[[Price, str, str], int]) -> int:
    """nano-USD per `_UNIT_SCALE`. `rate_of`: what a unit with variants costs for a quality and size."""
    pieces = usage.characters * _rate(prices, "character", 0) + _rate(prices, "request", 0)
    if "image" in prices:
        pieces += usage.images * rate_of(prices["image"], usage.quality, usage.size)
    scaled = pieces * _MS_PER_MINUTE + usage.audio_ms * _rate(prices, "audio_minute", 0)
    if "video_second" in prices:
        scaled += usage.video_ms * 60 * rate_of(prices["video_second"], usage.quality, usage.size)
    return scaled


def variant_price(price: Price, quality: str, size: str) -> int:
    """The price of the variant `quality:size`, else of the size, else of the quality, else the default."""
    if price.variants:
        quality, size = _plain(quality), _plain(size)
        for name in (f"{quality}:{size}", size, quality):
            if name in price.variants:
                return price.variants[name]
    return price.default


def dearest_variant(price: Price, quality: str, size: str) -> int:
    """The most that a variant can cost that agrees with what is known of it. A size or quality that no variant names
    may be another spelling of one: it counts as not known."""
    if not price.variants:
        return price.default
    alone = {name for name in price.variants if ":" not in name}
    pairs = [name.split(":") for name in price.variants if ":" in name]
    qualities = _possible(_plain(quality), alone.union(pair[0] for pair in pairs))
    sizes = _possible(_plain(size), alone.union(pair[-1] for pair in pairs))
    if len(qualities) > 1 and len(sizes) > 1:
        return max(price.default, *price.variants.values())
    return max(variant_price(price, one, other) for one in qualities for other in sizes)


def _possible(asked: str, named: set[str]) -> set[str]:
    """What the quality or size of an answer may be, of those that variants name; empty for any other."""
    return {asked} if asked in named and asked not in _UNDECIDED else named | {""}


def _plain(text: str) -> str:
    """As variants are spelt. A colon joins a quality and a size, so neither has one."""
    return "" if ":" in text else text.strip().lower()


def held_tokens(size_bytes: int) -> int:
    """Tokens to hold for text of this size."""
    return -(-size_bytes // BYTES_PER_TOKEN_WORST)


def likely_tokens(size_bytes: int) -> int:
    """Tokens to charge for text of this size when the upstream did not say."""
    return -(-size_bytes // BYTES_PER_TOKEN_LIKELY)


_USD_DIGITS = len(str(NUSD_PER_USD))


@lru_cache(maxsize=1024)  # a cost is told twice: in the answer's head, and in the log line soon after
def usd(nusd: int) -> str:
    """nano-USD as a decimal string of USD, exact: 1250000 -> "0.00125"; at least two decimals."""
    digits = str(nusd).zfill(_USD_DIGITS) if nusd >= 0 else "-" + str(-nusd).zfill(_USD_DIGITS)
    return f"{digits[:-9]}.{digits[-9:].rstrip('0').ljust(2, '0')}"


def _rate(prices: Mapping[str, Price], unit: str, otherwise: int) -> int:
    price = prices.get(unit)
    return otherwise if price is None else price.default


@dataclass(slots=True)
class _Rates:
    """What every request asks of its prices: nano-USD per `PRICE_SCALE` tokens, or per that many requests. `text_in`:
    None where tokens are not charged."""

    text_in: int | None
    text_out: int
    per_request: int
    dearest_in: int
    dearest_out: int


_rates_kept: dict[int, tuple[Mapping[str, Price], _Rates]] = {}
"""By identity of the prices, to which an entry holds on: they do not change."""

_RATES_KEPT = 4096


def _rates_of(prices: Mapping[str, Price]) -> _Rates:
    kept = _rates_kept.get(id(prices))
    if kept is None:
        if len(_rates_kept) >= _RATES_KEPT:
            _rates_kept.clear()
        kept = _rates_kept[id(prices)] = prices, _rates(prices)
    return kept[1]


def _rates(prices: Mapping[str, Price]) -> _Rates:
    return _Rates(
        text_in=prices["input"].default if "input" in prices else None,
        text_out=_rate(prices, "output" if "output" in prices else "image_output", 0),
        per_request=_rate(prices, "request", 0),
        dearest_in=_dearest(prices, _INPUT_UNITS),
        dearest_out=_dearest(prices, _OUTPUT_UNITS),
    )


def _dearest(prices: Mapping[str, Price], units: tuple[str, ...]) -> int:
    return max([prices[unit].default for unit in units if unit in prices], default=0)
