"""One file against its schema: every finding once, and what is left to check in spite of them."""

from __future__ import annotations

import pytest

from oxyy_proxy.policyfiles.document import Value
from oxyy_proxy.policyfiles.schema import GatewaySpec, ModelsSpec, Spec, TeamSpec, remaining
from oxyy_proxy.policyfiles.source import Findings, Source, suggestion
from tests.policyfiles.conftest import MODELS, TEAM, Write, errors


def source(kind: type[Spec], text: str, **stand_ins: Value) -> tuple[Source[Spec], list[str]]:
    findings = Findings()
    made = Source("x.yaml", text.encode(), kind, findings, stand_ins=stand_ins)
    return made, [str(error) for error in findings.errors]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt5", "; did you mean 'gpt-5'?"),
        ("idel", "; did you mean 'idle'?"),
        ("zebra", ""),
        ("", ""),
    ],
)
def test_a_suggestion_is_close_or_not_made(name: str, expected: str) -> None:
    assert suggestion(name, iter(["gpt-5", "idle", "answer"])) == expected


def test_what_is_wrong_is_left_out_and_the_rest_is_there() -> None:
    text = (
        "drain: x\ntimezone: Asia/Tokyo\nlimits: [{meter: usdd, cap: 1}, {meter: concurrent, cap: 2}]\n"
        "retry: {attempts: 0, idle: 5s}\n"
    )
    made, found = source(GatewaySpec, text)
    assert [error.partition(": ")[0] for error in found] == ["x.yaml:3:18", "x.yaml:4:19", "x.yaml:1:8"]
    spec = made.spec
    assert isinstance(spec, GatewaySpec)
    assert (str(spec.timezone), spec.drain, spec.retry.attempts, spec.retry.idle) == ("Asia/Tokyo", 30.0, 3, 5.0)
    assert [(index, limit.meter) for index, limit in remaining(spec.limits)] == [(1, "concurrent")]


def test_a_wrong_price_takes_no_other_price_with_it() -> None:
    made, found = source(
        ModelsSpec, "models: {a: {endpoints: [chat], price: {input: -1, output: 2}}, b: {endpoints: []}}"
    )
    assert len(found) == 2
    spec = made.spec
    assert isinstance(spec, ModelsSpec)
    assert set(spec.models) == {"a"}
    assert set(spec.models["a"].price.units()) == {"output"}


def test_an_unknown_field_costs_nothing_but_itself() -> None:
    made, found = source(GatewaySpec, "drain: 5s\ndrian: 6s\nretry: {idel: 5s, attempts: 2}\n")
    assert len(found) == 2
    assert isinstance(made.spec, GatewaySpec)
    assert (made.spec.drain, made.spec.retry.attempts) == (5.0, 2)


def test_a_stand_in_takes_the_place_of_what_must_be_there() -> None:
    text = "cost_center: CC\nteam: [1]\n"
    without, _ = source(TeamSpec, text)
    assert without.spec is None
    made, found = source(TeamSpec, text, team="x", models={"allow": []})
    assert len(found) == 2
    assert isinstance(made.spec, TeamSpec)
    assert (made.spec.team, made.spec.cost_center, made.spec.models.allow) == ("x", "CC", [])


@pytest.mark.parametrize("text", ["a: [", "\x07", "- a list", "text", "17"])
def test_a_file_that_is_no_mapping_leaves_nothing_or_the_defaults(text: str) -> None:
    made, found = source(GatewaySpec, text)
    assert len(found) == 1
    assert made.spec is None or made.spec == GatewaySpec()


def test_what_cannot_be_read_is_not_complained_of_twice() -> None:
    _, found = source(GatewaySpec, "version: !!binary aGk=\n")
    assert found == ["x.yaml:1:10: the tag tag:yaml.org,2002:binary is not allowed"]


def test_names_and_items_are_told_as_written_valid_or_not() -> None:
    made, _ = source(
        ModelsSpec, "models: {a: {price: {inptu: 1}}, b: 7}\nkeys: [{id: x}, {id: 7}, text, {id: y}]\naliases: 3\n"
    )
    assert made.names("models") == {"a", "b"}
    assert made.names("models", "a", "price") == {"inptu"}
    assert made.names("models", "b") is made.names("models", "c", "price") is made.names("aliases") is None
    assert made.items("keys", "id") == {"x", "y"}
    assert made.items("absent", "id") == frozenset()
    assert made.items("models", "id") is None


def test_places_are_told_of_the_file_as_it_is_called() -> None:
    findings = Findings()
    made = Source("teams/x.yaml", b"drain: 5s\nretry:\n  idle: 5s\n", GatewaySpec, findings, stand_ins={})
    made.error(("retry", "idle"), "wrong")
    made.warn(("retry", "idle"), "odd", key=True)
    assert made.where(("retry", "idle")) == "teams/x.yaml:3"
    assert [str(error) for error in findings.errors] == ["teams/x.yaml:3:9: wrong"]
    assert [str(warning) for warning in findings.warnings] == ["teams/x.yaml:3:3: odd"]


def test_all_errors_of_all_files_come_at_once(write: Write) -> None:
    folder = write(
        {
            "gateway.yaml": "drain: x\nlimits:\n  - {meter: usdd, per: day, cap: 1}\n  - {meter: usd, cap: 1}\n",
            "models.yaml": MODELS.replace("1.25", "-1").replace("fast: gpt-5-mini", "fast: nope"),
            "teams/search.yaml": TEAM.replace("version: 1", "versoin: 1") + "fallbacks: {gpt-6: []}\n",
        }
    )
    assert [":".join(error.split(":")[:3]) for error in errors(folder)] == [
        "gateway.yaml:1:8",
        "gateway.yaml:3:13",
        "gateway.yaml:4:5",
        "models.yaml:3:45",
        "models.yaml:6:17",
        "teams/search.yaml:1:1",
        "teams/search.yaml:6:13",
    ]


def test_a_broken_models_file_does_not_drown_the_other_files_in_errors(write: Write) -> None:
    (error,) = errors(write({"models.yaml": "models: [", "teams/search.yaml": TEAM + "fallbacks: {gpt-5: [ada]}"}))
    assert error.startswith("models.yaml:1:10: not valid YAML")
