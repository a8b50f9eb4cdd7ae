"""models.yaml: prices, and everything that names a model."""

from __future__ import annotations

import pytest

from oxyy_proxy.policyfiles import PolicyInvalid, load
from oxyy_proxy.rules.types import Model, PartTokens, Price
from tests.policyfiles.conftest import MODELS, Write, errors, warnings

MODEL_ERRORS = [
    (MODELS + "default_models: {chat: gpt-6}", "7:24: unknown model 'gpt-6'; did you mean 'gpt-5'?"),
    (MODELS + "default_models: {chat: fast}", "7:24: unknown model 'fast'; it is an alias, name 'gpt-5-mini'"),
    (MODELS + "default_models: {chat: ada}", "7:24: 'ada' does not serve chat; it serves embeddings"),
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
