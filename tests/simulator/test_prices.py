from decimal import Decimal

import pytest

from oxyy_proxy.simulator.answers import Usage
from oxyy_proxy.simulator.prices import DEFAULT_PRICES, read_prices

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
    price = read_prices({"m": {"input": Decimal("0.1"), "image": {"default": 0.04}}})["m"]
    assert price.cost_nusd(Usage(3)) == 300


def test_what_a_model_serves_follows_from_its_prices():
    models = read_prices({"a": {"output": 1}, "b": {"input": 1}, "c": {"image": 1}})
    assert [sorted(models[name].endpoints) for name in "abc"] == [["chat"], ["embeddings"], []]


@pytest.mark.parametrize("bad", [0.1, "cheap", "-1", True, None, "NaN"])
def test_a_price_that_is_none_names_model_and_unit(bad):
    with pytest.raises(ValueError, match="price of gpt-9, input"):
        read_prices({"gpt-9": {"input": bad}})
