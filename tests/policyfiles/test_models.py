"""models.yaml: prices, and everything that names a model."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oxyy_proxy.policyfiles import Loaded, PolicyInvalid, load
from oxyy_proxy.policyfiles.models import NEEDED, UNITS, VARIANTS
from oxyy_proxy.policyfiles.schema import Endpoint
from oxyy_proxy.rules.types import Model, PartTokens, Price
from tests.policyfiles.conftest import MODELS, Write, errors, warnings

MODEL_ERRORS = [
    (MODELS + "default_models: {chat: gpt-6}", "7:24: unknown model 'gpt-6'; did you mean 'gpt-5'?"),
    (MODELS + "default_models: {chat: fast}", "7:24: unknown model 'fast'; it is an alias, name 'gpt-5-mini'"),
    (MODELS + "default_models: {chat: ada}", "7:24: 'ada' does not serve chat; it serves embeddings"),
    (MODELS + "default_models: {images: gpt-5}", "7:26: 'gpt-5' does not serve images; it serves chat"),
    (MODELS + "default_models: {speech: ada}", "7:26: 'ada' does not serve speech; it serves embeddings"),
    (MODELS.replace("fast:", "gpt-5:"), "6:11: the alias 'gpt-5' is also the name of a model"),
    (MODELS.replace("fast: gpt-5-mini", "fast: zzz"), "6:17: unknown model 'zzz'"),
    (MODELS.replace("output: 10}", "output: 10}, fallbacks: [gpt-5-mini, nope]"), "3:88: unknown model 'nope'"),
    (
        MODELS.replace("output: 10}", "output: 10}, fallbacks: [gpt-5]"),
        "3:76: 'gpt-5' stands twice in the chain of 'gpt-5'",
    ),
    (
        MODELS.replace("output: 10}", "output: 10}, fallbacks: [gpt-5-mini, gpt-5-mini]"),
        "3:88: 'gpt-5-mini' stands twice in the chain of 'gpt-5'",
    ),
]


@pytest.mark.parametrize(("text", "expected"), MODEL_ERRORS)
def test_what_names_no_model_or_the_wrong_one_names_its_place(write: Write, text: str, expected: str) -> None:
    assert errors(write({"models.yaml": text})) == [f"models.yaml:{expected}"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"models.yaml": MODELS.replace(", output: 10", "").replace(", price: {input: 0.1}", "")},
            [
                "models.yaml:3:30: 'gpt-5' has no price for output: "
                "chat requests will be refused with model_not_priced",
                "models.yaml:5:3: 'ada' has no price for input: "
                "embeddings requests will be refused with model_not_priced",
            ],
        ),
        (
            {"models.yaml": MODELS.replace("output: 10", "output: {default: 10, hd: 11}")},
            ["models.yaml:3:51: variants of output have no effect: only its default counts"],
        ),
        (
            {"models.yaml": MODELS.replace("output: 10}", "output: 10}, fallbacks: [ada]")},
            ["models.yaml:3:76: 'ada' is never used here: it does not serve chat as 'gpt-5' does"],
        ),
    ],
)
def test_what_has_no_use_is_warned_of(write: Write, changes: dict[str, str | None], expected: list[str]) -> None:
    assert warnings(write(changes)) == expected


def test_a_model_is_all_that_its_entry_says(write: Write) -> None:
    written = (
        "models:\n"
        "  a: {endpoints: [chat, embeddings], price: {input: 1, output: {default: 2}, request: 0.5}, fallbacks: [b],\n"
        "      max_output_tokens: 7, first_byte: 2s, answer: 3m}\n"
        "  b: {endpoints: [chat], price: {input: 1, output: 1}}\n"
    )
    models = load(write({"models.yaml": written, "teams/search.yaml": _team("a")})).policy.models
    assert models["a"] == Model(
        name="a",
        endpoints=frozenset({"chat", "embeddings"}),
        prices={"input": Price(10**9), "output": Price(2 * 10**9), "request": Price(500_000_000 * 10**6)},
        max_output_tokens=7,
        fallbacks=("b",),
        first_byte_s=2.0,
        answer_s=180.0,
    )
    assert models["b"] == Model("b", frozenset({"chat"}), {"input": Price(10**9), "output": Price(10**9)})


def _team(allow: str) -> str:
    return f"team: search\nmodels: {{allow: [{allow}]}}\n"


def test_aliases_defaults_and_parts_are_kept_as_written(write: Write) -> None:
    added = MODELS + "default_models: {chat: gpt-5, embeddings: ada}\npart_tokens: {file: 0}\n"
    policy = load(write({"models.yaml": added})).policy
    assert policy.aliases == {"fast": "gpt-5-mini"}
    assert policy.default_models == {"chat": "gpt-5", "embeddings": "ada"}
    assert policy.part_tokens == PartTokens(file=0)


def test_a_model_may_be_named_before_and_after_it_is_described(write: Write) -> None:
    both = MODELS.replace("output: 10}", "output: 10}, fallbacks: [gpt-5-mini]").replace(
        "output: 2}", "output: 2}, fallbacks: [gpt-5]"
    )
    models = load(write({"models.yaml": both})).policy.models
    assert (models["gpt-5"].fallbacks, models["gpt-5-mini"].fallbacks) == (("gpt-5-mini",), ("gpt-5",))


def test_a_model_that_is_wrong_in_itself_is_not_called_unknown_too(write: Write) -> None:
    wrong = MODELS.replace("[embeddings]", "[embedings]").replace("output: 10}", "output: 10}, fallbacks: [ada]")
    (error,) = errors(write({"models.yaml": wrong}))
    assert error.startswith("models.yaml:5:")


def test_a_price_that_is_wrong_is_not_called_missing_too(write: Write) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        load(write({"models.yaml": MODELS.replace("1.25", "-1")}))
    assert caught.value.warnings == ()


def one(endpoints: str, price: str, more: str = "") -> str:
    """models.yaml with the model `m`, whose price stands in line 4."""
    return f"models:\n  m:\n    endpoints: [{endpoints}]\n    price: {{{price}}}\n{more}"


SERVED = [
    ("chat", "input: 1, output: 1"),
    ("embeddings", "input: 1"),
    ("images, image_edits", "image: 1"),
    ("images, image_edits", "input: 1, output: 1"),
    ("images, image_edits", "input: 1, image_output: 1, image_input: 1"),
    ("chat, images", "input: 1, output: 1, image: 1"),
    ("videos", "video_second: 1"),
    ("transcriptions", "audio_minute: 1"),
    ("transcriptions", "input: 1, audio_input: 1, output: 1"),
    ("speech", "character: 1"),
    ("embeddings, speech", "input: 1, character: 1"),
]


@pytest.mark.parametrize(("endpoints", "price"), SERVED)
def test_an_endpoint_is_served_by_any_of_the_units_it_can_be_charged_by(
    write: Write, endpoints: str, price: str
) -> None:
    assert warnings(write({"models.yaml": one(endpoints, price), "teams/search.yaml": _team("m")})) == []


UNSERVED = [
    ("chat", "input: 1, image: 1", "output"),
    ("images", "", "image (or for input and output, or for input and image_output)"),
    ("image_edits", "input: 1", "image (or for output, or for image_output)"),
    ("videos", "input: 1, output: 1", "video_second"),
    ("transcriptions", "output: 1", "audio_minute (or for input)"),
    ("speech", "audio_minute: 1", "character"),
]


@pytest.mark.parametrize(("endpoint", "price", "lacking"), UNSERVED)
def test_an_endpoint_without_a_price_is_warned_of_with_every_way_to_price_it(
    write: Write, endpoint: str, price: str, lacking: str
) -> None:
    folder = write({"models.yaml": one(endpoint, price), "teams/search.yaml": _team("m")})
    refused = f"{endpoint} requests will be refused with model_not_priced"
    assert warnings(folder) == [f"models.yaml:4:5: 'm' has no price for {lacking}: {refused}"]


def test_every_endpoint_that_can_be_named_has_units_it_can_be_charged_by() -> None:
    assert set(NEEDED) == set(get_args(Endpoint))
    assert all(units and units <= set(UNITS) for needed in NEEDED.values() for units in needed)


@pytest.mark.parametrize(("endpoint", "unit"), [("images", "image"), ("transcriptions", "audio_minute")])
def test_a_price_for_input_beside_a_unit_needs_one_for_output(write: Write, endpoint: str, unit: str) -> None:
    folder = write({"models.yaml": one(endpoint, f"{unit}: 1, input: 1"), "teams/search.yaml": _team("m")})
    (warning,) = warnings(folder)
    assert warning.endswith(
        f": there is a price for input and none for output: {endpoint} answers that say how many tokens they took are "
        "charged for their input alone"
    )


VIDEO = "video_second: 0.4"


def test_the_lengths_of_a_video_are_kept(write: Write) -> None:
    text = one("videos", VIDEO, "    default_seconds: 4\n    max_seconds: 4\n")
    model = load(write({"models.yaml": text, "teams/search.yaml": _team("m")})).policy.models["m"]
    assert (model.default_seconds, model.max_seconds) == (4, 4)


def test_a_video_is_not_longer_by_default_than_at_most(write: Write) -> None:
    text = one("videos", VIDEO, "    max_seconds: 8\n    default_seconds: 9\n")
    assert errors(write({"models.yaml": text})) == ["models.yaml:6:22: expected at most the 8 of max_seconds, got 9"]


def test_a_length_that_is_wrong_is_not_compared_with_the_other(write: Write) -> None:
    text = one("videos", VIDEO, "    max_seconds: 0\n    default_seconds: 9\n")
    (error,) = errors(write({"models.yaml": text}))
    assert error.startswith("models.yaml:5:18: expected a whole number")


@pytest.mark.parametrize("wrong", ["max_seconds: 0", "default_seconds: 0", "max_output_tokens: 0"])
def test_a_number_that_is_wrong_hides_nothing_else_of_its_model(write: Write, wrong: str) -> None:
    text = one("videos", VIDEO, f"    {wrong}\ndefault_models: {{chat: m}}\n")
    first, second = errors(write({"models.yaml": text}))
    assert first.startswith("models.yaml:5:")
    assert second == "models.yaml:6:24: 'm' does not serve chat; it serves videos"


def test_lengths_of_a_model_without_videos_are_warned_of(write: Write) -> None:
    text = one("images", "image: 1", "    max_seconds: 8\n    default_seconds: 4\n")
    assert warnings(write({"models.yaml": text, "teams/search.yaml": _team("m")})) == [
        "models.yaml:5:5: max_seconds has no effect: 'm' does not serve videos",
        "models.yaml:6:5: default_seconds has no effect: 'm' does not serve videos",
    ]


def test_variants_are_compared_without_case_and_blanks(write: Write) -> None:
    price = 'image: {default: 1, " HD : 1024x1792": 2, 1024X1024: 3, Low: 4}, video_second: {default: 1, 720: 2, 4K: 3}'
    text = one("images, videos", price)
    prices = load(write({"models.yaml": text, "teams/search.yaml": _team("m")})).policy.models["m"].prices
    assert list(prices["image"].variants) == ["hd:1024x1792", "1024x1024", "low"]
    assert list(prices["video_second"].variants) == ["720", "4k"]


IMAGE_KEY = "expected a size, a quality or QUALITY:SIZE, such as 1024x1792, hd or hd:1024x1792"


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        ("image: {default: 1, hd: 2, HD: 3}", "4:40: the variant 'HD' is the same as 'hd'; keep one of the two"),
        (
            'image: {default: 1, "720": 2, "720 ": 3}',
            "4:43: the variant '720 ' is the same as '720'; keep one of the two",
        ),
        (
            "image: {default: 1, Default: 2}",
            "4:33: the variant 'Default' is the same as 'default'; keep one of the two",
        ),
        ('image: {default: 1, "hd:1:2": 2}', f"4:33: {IMAGE_KEY}, got 'hd:1:2'"),
        ('image: {default: 1, "hd:": 2}', f"4:33: {IMAGE_KEY}, got 'hd:'"),
        ('image: {default: 1, " ": 2}', f"4:33: {IMAGE_KEY}, got ' '"),
        (
            'video_second: {default: 1, "hd:1080p": 2}',
            "4:40: expected a resolution such as 1080p, got 'hd:1080p'",
        ),
    ],
)
def test_a_variant_that_no_request_can_mean_is_an_error(write: Write, price: str, expected: str) -> None:
    assert errors(write({"models.yaml": one("images, videos", price)})) == [f"models.yaml:{expected}"]


@pytest.mark.parametrize("unit", ["input", "character", "audio_minute", "request"])
def test_variants_of_other_units_do_not_count(write: Write, unit: str) -> None:
    units = dict.fromkeys(("input", "output", "character", "audio_minute", "request"), "1")
    units[unit] = '{default: 2, "a:b:": 3}'
    text = one("embeddings, speech, transcriptions", ", ".join(f"{name}: {price}" for name, price in units.items()))
    loaded = load(write({"models.yaml": text, "teams/search.yaml": _team("m")}))
    (warning,) = loaded.warnings
    assert warning.message == f"variants of {unit} have no effect: only its default counts"
    assert not loaded.policy.models["m"].prices[unit].variants


def rarely(often: st.SearchStrategy[str], *odd: str) -> st.SearchStrategy[str]:
    """Mostly what loads, so that a whole file of it often does."""
    return st.integers(0, 19).flatmap(lambda roll: often if roll else st.sampled_from(odd))


def flow(members: dict[str, str]) -> str:
    return ", ".join(f'"{name}": {value}' for name, value in members.items())


AMOUNT = rarely(st.sampled_from(["0", "1", "0.04", "1e-9", "1e6"]), "-1", "1000001", "x", "null", "[]", ".inf", "true")
VARIANT = rarely(
    st.sampled_from(["hd", "HD", " low ", "720", "1080p", "hd:1024x1024", "auto", "\u0130"]),
    *("a:b:c", ":", "", "x" * 70, "\\t"),
)
GIVEN = rarely(st.just("{default: 1, "), "{").flatmap(
    lambda start: st.dictionaries(VARIANT, AMOUNT, max_size=3).map(lambda given: start + flow(given) + "}")
)
SOME_ENDPOINTS = st.lists(rarely(st.sampled_from([*NEEDED]), "models"), min_size=1, max_size=4)
SOME_PRICES = st.dictionaries(rarely(st.sampled_from(UNITS), "video"), st.one_of(AMOUNT, AMOUNT, GIVEN), max_size=6)
SOME_FIELDS = st.dictionaries(
    st.sampled_from(["default_seconds", "max_seconds", "max_output_tokens"]),
    rarely(st.sampled_from(["1", "4", "60"]), "0", "7201", "1e9", "10m", "null"),
)


@given(endpoints=SOME_ENDPOINTS, price=SOME_PRICES, fields=SOME_FIELDS, default=st.integers(0, 3))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_model_serves_and_costs_it_loads_or_is_refused_with_a_place(
    write: Write, endpoints: list[str], price: dict[str, str], fields: dict[str, str], default: int
) -> None:
    more = "".join(f"    {name}: {value}\n" for name, value in fields.items())
    served = endpoints[default] if default < len(endpoints) else "chat"
    text = one(", ".join(endpoints), flow(price), f"{more}default_models: {{{served}: m}}\n")
    loaded = outcome(write({"models.yaml": text, "teams/search.yaml": _team("m")}))
    if isinstance(loaded, PolicyInvalid):
        assert all(error.file == "models.yaml" and error.line >= 1 and error.message for error in loaded.errors)
        return
    model = loaded.policy.models["m"]
    assert served in model.endpoints
    assert (model.default_seconds or 1) <= (model.max_seconds or 7200) <= 7200
    priced = {name for name in model.endpoints if any(units <= model.prices.keys() for units in NEEDED[name])}
    refused = [warning.message for warning in loaded.warnings if "model_not_priced" in warning.message]
    told = {name for name in NEEDED if any(f": {name} requests" in message for message in refused)}
    assert told == model.endpoints - priced
    for unit, cost in model.prices.items():
        for variant in cost.variants:
            assert variant == variant.strip().lower()
            assert all(variant.split(":"))
            assert variant.count(":") < VARIANTS[unit][0]


def outcome(folder: Path) -> Loaded | PolicyInvalid:
    try:
        return load(folder)
    except PolicyInvalid as invalid:
        return invalid
