"""YAML as text, and where everything in it stands."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from oxyy_proxy.policyfiles import load
from oxyy_proxy.policyfiles.document import CACHED_DOCUMENTS, MAX_DEPTH, Document, Position, Value, parse
from tests.policyfiles.conftest import VALID, Write, errors


def data(text: str) -> Value:
    document = parse(text.encode())
    assert document.problems == ()
    return document.data


def problems(text: str) -> list[str]:
    return [f"{at.line}:{at.column}: {message}" for at, message in parse(text.encode()).problems]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1", 1),
        ("-1", -1),
        ("+1_000", 1000),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 17),
        ("1.5", Decimal("1.5")),
        ("0.10", Decimal("0.10")),
        ("1e-9", Decimal("1E-9")),
        ("900000000.000000001", Decimal("900000000.000000001")),
        (".inf", ".inf"),
        ("-.inf", "-.inf"),
        (".nan", ".nan"),
        ("9" * 40, int("9" * 40)),
        ("9" * 41, "9" * 41),
        ("0." + "9" * 40, "0." + "9" * 40),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("null", None),
        ("~", None),
        ("", None),
        ("3:30", "3:30"),
        ("2027-06-30", date(2027, 6, 30)),
        ("2027-02-30", "2027-02-30"),
        ("2027-06-30 10:00:00", "2027-06-30 10:00:00"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("=", "="),
        ("{a: [1, b]}", {"a": [1, "b"]}),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_a_value_is_what_yaml_1_2_says_and_money_is_no_float(written: str, value: Value) -> None:
    found = data(f"a: {written}")
    assert found == {"a": value}
    assert isinstance(found, dict)
    assert type(found["a"]) is type(value)


@pytest.mark.parametrize("written", ["720", "1080p", "true", "null", "1.5", "2027-06-30", "0x1f"])
def test_a_key_is_its_own_text_whatever_it_looks_like(written: str) -> None:
    assert data(f"{{{written}: 1}}") == {written: 1}


@pytest.mark.parametrize("text", ["", "\n", "# nothing but a comment\n", "\ufeff"])
def test_a_file_without_content_is_an_empty_mapping(text: str) -> None:
    assert data(text) == {}
    assert parse(text.encode()).usable


def test_every_key_and_value_has_its_place() -> None:
    document = parse(b"a: 1\nb:\n  - {c: x}\n  -   d\n")
    places = {
        ("a",): (Position(1, 1), Position(1, 4)),
        ("b",): (Position(2, 1), Position(3, 3)),
        ("b", 0, "c"): (Position(3, 6), Position(3, 9)),
        ("b", 1): (Position(4, 7), Position(4, 7)),
    }
    found = {loc: tuple(document.position(loc, of_key=of_key) for of_key in (True, False)) for loc in places}
    assert found == places


@pytest.mark.parametrize(("loc", "line"), [(("b", 0, "missing"), 3), (("b", 7, "c"), 2), (("nothing", 1), 1), ((), 1)])
def test_what_is_missing_is_looked_for_around_it(loc: tuple[str | int, ...], line: int) -> None:
    assert parse(b"a: 1\nb: [\n  {c: x}]\n").position(loc, of_key=False).line == line


def test_a_document_without_places_stands_at_its_beginning() -> None:
    assert Document().position(("a",), of_key=True) == Position(1, 1)


def test_every_duplicate_is_found_and_the_first_one_counts() -> None:
    text = "a: 1\nb: {c: 1, c: 2}\na: 2\na: 3\n"
    assert problems(text) == [
        "2:11: 'c' is given twice, first in line 2",
        "3:1: 'a' is given twice, first in line 1",
        "4:1: 'a' is given twice, first in line 1",
    ]
    assert parse(text.encode()).data == {"a": 1, "b": {"c": 1}}


@pytest.mark.parametrize(
    ("text", "merged"),
    [
        ("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3, c: 4}", {"a": 1, "b": 3, "c": 4}),
        ("x: &x {a: 1}\nz: &z {a: 2, b: 2}\ny: {<<: [*x, *z]}", {"a": 1, "b": 2}),
        ("x: &x {a: 1}\ny: {b: 2, <<: *x}", {"a": 1, "b": 2}),
        ("x: &x {a: 1}\nz: &z {<<: *x, b: 2}\ny: {<<: *z}", {"a": 1, "b": 2}),
    ],
)
def test_a_merge_gives_what_is_not_given_beside_it(text: str, merged: Value) -> None:
    found = data(text)
    assert isinstance(found, dict)
    assert found["y"] == merged


@pytest.mark.parametrize("merged", ["1", "[1]", "text"])
def test_only_mappings_are_merged(merged: str) -> None:
    assert problems(f"y: {{<<: {merged}}}")[0].endswith(": '<<' takes a mapping or a list of mappings")


def test_problems_leave_the_rest_to_read_but_broken_text_leaves_nothing() -> None:
    twice, broken = parse(b"a: 1\na: 2\n"), parse(b"a: 1\nb: [")
    assert (twice.data, twice.usable) == ({"a": 1}, True)
    assert (broken.data, broken.usable, len(broken.problems)) == (None, False, 1)


def test_equal_bytes_are_parsed_once() -> None:
    assert parse(b"a: 17") is parse(bytes(bytearray(b"a: 17")))
    assert CACHED_DOCUMENTS >= 1000


def test_as_deep_as_allowed_is_allowed() -> None:
    nested = MAX_DEPTH - 1
    assert problems("[" * nested + "]" * nested) == []
    assert problems("[" * (nested + 1) + "1" + "]" * (nested + 1)) != []


UNREADABLE = [
    ("timezone: UTC\ntimezone: UTC", "2:1: 'timezone' is given twice, first in line 1"),
    ("? [a]\n: 1", "1:3: a key must be text"),
    ("version: !!python/name:os.system 1", "1:10: the tag tag:yaml.org,2002:python/name:os.system is not allowed"),
    ("limits: *nowhere", "1:9: not valid YAML: found undefined alias 'nowhere'"),
    (
        "version: 1\n\tdrain: 5s",
        "2:1: not valid YAML: while scanning for the next token, found character '\\t' that cannot start any token",
    ),
    (
        "version: 1\n---\nversion: 1",
        "2:1: not valid YAML: expected a single document in the stream, but found another document",
    ),
    ("drain: \x07", "1:8: character 7 is not allowed in YAML"),
    ("&a\nlimits: *a", "1:1: an anchor contains an alias of itself"),
]


@pytest.mark.parametrize(("text", "expected"), UNREADABLE)
def test_text_that_cannot_be_used_is_an_error_with_its_place(write: Write, text: str, expected: str) -> None:
    assert errors(write({"gateway.yaml": text})) == [f"gateway.yaml:{expected}"]


def test_bytes_that_are_not_utf_8_are_an_error_with_their_place(write: Write) -> None:
    folder = write({})
    (folder / "gateway.yaml").write_bytes("version: 1\n# ä".encode("latin-1"))
    assert errors(folder) == ["gateway.yaml:2:3: not UTF-8: unexpected end of data"]


@pytest.mark.parametrize("depth", [40, 3_000])
def test_deep_nesting_is_an_error(write: Write, depth: int) -> None:
    (error,) = errors(write({"gateway.yaml": "a: " + "[" * depth + "]" * depth}))
    assert error.startswith("gateway.yaml:1:")
    assert error.endswith("nested deeper than 32 levels")


def test_a_few_lines_cannot_stand_for_billions_of_values(write: Write) -> None:
    lines = ["a0: &a0 [1, 1]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (error,) = errors(write({"gateway.yaml": "\n".join(lines)}))
    assert error.endswith("more than 200000 values in one file, aliases expanded")


def test_anchors_cannot_nest_without_end(write: Write) -> None:
    lines = ["a0: &a0 [1]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 2000)]
    assert "nested deeper than 32 levels" in errors(write({"gateway.yaml": "\n".join(lines)}))[0]


def test_text_stays_text_and_true_is_the_only_true(write: Write) -> None:
    team = VALID["teams/search.yaml"].replace("version: 1\n", "version: 1\ncost_center: no\n", 1)
    assert load(write({"teams/search.yaml": team})).policy.teams["search"].cost_center == "no"


def test_anchors_and_merges_stand_for_what_they_name(write: Write) -> None:
    models = (
        "models:\n"
        "  gpt-5: &chat {endpoints: [chat], price: {input: 1, output: 2}}\n"
        "  gpt-5-mini: {<<: *chat, max_output_tokens: 7}\n"
    )
    policy = load(write({"models.yaml": models})).policy
    assert policy.models["gpt-5-mini"].prices == policy.models["gpt-5"].prices
    assert policy.models["gpt-5-mini"].max_output_tokens == 7
