from decimal import Decimal

import pytest

from oxyy_proxy.simulator.answers import Usage
from oxyy_proxy.simulator.pricelist import DEFAULT_PRICES
from oxyy_proxy.simulator.prices import read_prices, served

MODELS = read_prices(DEFAULT_PRICES)


@pytest.mark.parametrize(
    ("model", "usage", "nusd"),
    [
        # 900 × 1.25 + 100 × 0.125 + 50 × 10 = 1637.5 USD per million
        ("gpt-5", Usage(1000, 50, 100), 1_637_500),
        # a model without a price for cached input charges all of it as input: 1000 × 5 + 1 × 15
        ("chatgpt-4o-latest", Usage(1000, 1, 400), 5_015_000),
        ("text-embedding-3-large", Usage(7), 910),
        ("gpt-5", Usage(0), 0),
    ],
)
def test_a_cost_is_tokens_times_price(model, usage, nusd):
    assert MODELS[model].cost_nusd(usage) == nusd


def test_a_cost_is_rounded_up_once_for_the_whole_answer():
    price = read_prices({"m": {"input": "0.0004", "output": "0.0004"}})["m"]
    assert price.cost_nusd(Usage(1, 1)) == 1  # 0.4 + 0.4 nano-USD; rounding each would give 2
    assert price.cost_nusd(Usage(2, 1)) == 2  # 1.2


def test_a_price_per_request_is_added():
    price = read_prices({"m": {"input": 1, "output": 2, "request": "0.01"}})["m"]
    assert price.cost_nusd(Usage(1, 1)) == 10_000_000 + 1000 + 2000


def test_decimal_prices_are_exact_and_other_units_are_left_aside():
    price = read_prices({"m": {"input": Decimal("0.1"), "colour": {"default": 0.04}}})["m"]
    assert price.cost_nusd(Usage(3)) == 300


@pytest.mark.parametrize(
    ("units", "endpoints"),
    [
        ("output", "chat"),
        ("input output cached_input", "chat"),
        ("input", "embeddings"),
        ("request", "embeddings"),
        ("image", "images image_edits"),
        ("input image_output", "images image_edits"),
        ("image_output", ""),
        ("video_second", "videos"),
        ("audio_minute", "transcriptions"),
        ("input audio_input output", "transcriptions chat"),
        ("character", "speech"),
        ("colour", ""),
    ],
)
def test_what_a_model_serves_follows_from_its_prices(units, endpoints):
    assert read_prices({"m": dict.fromkeys(units.split(), 1)})["m"].endpoints == set(endpoints.split())


def test_what_a_model_says_it_serves_wins():
    price = {"input": 1, "output": 1, "endpoints": ["transcriptions", "speech"]}
    assert read_prices({"m": price})["m"].endpoints == served(price) == {"transcriptions", "speech"}
    with pytest.raises(ValueError, match="m, endpoints: no fax; there are: chat, embeddings"):
        read_prices({"m": {"input": 1, "endpoints": ["chat", "fax"]}})


@pytest.mark.parametrize(
    ("size", "quality", "nusd"),
    [
        ("", "", 1),
        ("1024x1024", "", 2),
        (" 1024X1024 ", "", 2),
        ("1024x1024", "hd", 4),
        ("1024x1024", " HD ", 4),
        ("1024x1024", "standard", 2),
        ("512x512", "hd", 3),
        ("256x256", "hd", 5),
        ("512x512", "auto", 1),
    ],
)
def test_the_variant_is_that_of_both_else_of_size_else_of_quality(size, quality, nusd):
    variants = {"default": "1e-9", " 1024x1024": "2e-9", "hd": "3e-9", "HD:1024x1024": "4e-9", "256x256": "5e-9"}
    price = read_prices({"m": {"image": variants}})["m"]
    assert price.cost_nusd(Usage(images=1, size=size, quality=quality)) == nusd


@pytest.mark.parametrize(
    ("model", "usage", "nusd"),
    [
        ("dall-e-3", Usage(images=3, size="1024x1792"), 240_000_000),
        ("veo-3", Usage(video_ms=4000, size="720p"), 1_600_000_000),
        ("veo-3", Usage(video_ms=2001, size="1080P"), 1_000_500_000),
        ("whisper-1", Usage(audio_ms=5420), 542_000),
        ("whisper-1", Usage(audio_ms=1), 100),
        ("tts-1-hd", Usage(characters=1), 30_000),
        # 10 × 5 + 500 × 10 + 1056 × 40 USD per million; the image itself is not charged again
        ("gpt-image-1", Usage(510, 1056, image_input_tokens=500, image_output_tokens=1056, images=1), 47_290_000),
        # 2 × 1.25 + 55 × 3 + 9 × 5
        ("gpt-4o-mini-transcribe", Usage(57, 9, audio_input_tokens=55, audio_ms=5420), 212_500),
    ],
)
def test_a_cost_is_units_times_price(model, usage, nusd):
    assert MODELS[model].cost_nusd(usage) == nusd


def test_special_tokens_without_a_price_of_their_own_cost_as_much_as_others():
    price = read_prices({"m": {"input": 2, "output": 3}})["m"]
    spent = Usage(6, 4, image_input_tokens=2, audio_input_tokens=3, image_output_tokens=1, audio_output_tokens=2)
    assert price.cost_nusd(spent) == 1000 * (6 * 2 + 4 * 3)
    free = read_prices({"m": {"input": 2}})["m"]
    assert free.cost_nusd(spent) == 1000 * 6 * 2


def test_all_special_tokens_have_prices_of_their_own():
    units = {"input": 1, "output": 2, "image_input": 4, "audio_input": 8, "image_output": 16, "audio_output": 32}
    price = read_prices({"m": units})["m"]
    spent = Usage(111, 111, image_input_tokens=10, audio_input_tokens=100, image_output_tokens=10,
                  audio_output_tokens=100)  # fmt: skip
    assert price.cost_nusd(spent) == 1000 * (1 + 4 * 10 + 8 * 100 + 2 + 16 * 10 + 32 * 100)


def test_a_model_with_both_is_charged_by_tokens_where_there_are_any():
    price = read_prices({"m": {"input": 1, "image": 1, "request": 1}})["m"]
    assert price.cost_nusd(Usage(1, images=1)) == 1_000_001_000
    assert price.cost_nusd(Usage(images=1)) == 2_000_000_000


def test_units_are_rounded_up_once_together_with_the_request():
    price = read_prices({"m": {"audio_minute": "24e-6", "request": "5e-10"}})["m"]
    assert price.cost_nusd(Usage(audio_ms=1)) == 1  # 0.4 + 0.5 nano-USD


def test_variants_need_a_default_and_are_for_images_and_videos_alone():
    with pytest.raises(ValueError, match="price of m, image: variants need a default"):
        read_prices({"m": {"image": {"hd": 1}}})
    with pytest.raises(ValueError, match=r"price of m, video_second\.1080p: 0\.5"):
        read_prices({"m": {"video_second": {"default": 1, "1080p": 0.5}}})
    with pytest.raises(ValueError, match="price of m, character"):
        read_prices({"m": {"character": {"default": 1}}})


@pytest.mark.parametrize("bad", [0.1, "cheap", "-1", True, None, "NaN"])
def test_a_price_that_is_none_names_model_and_unit(bad):
    with pytest.raises(ValueError, match="price of gpt-9, input"):
        read_prices({"gpt-9": {"input": bad}})
