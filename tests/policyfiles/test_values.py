"""Money is exact, and no text of any kind gets further than a finding."""

from __future__ import annotations

import tempfile
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oxyy_proxy.policyfiles import Finding, PolicyInvalid, load
from oxyy_proxy.policyfiles.values import scaled, shown
from oxyy_proxy.rules.types import NUSD_PER_USD, PRICE_SCALE, Policy
from tests.policyfiles.conftest import TEAM, VALID, Write, errors, limits, sha

SPAN = "expected a time such as 500ms, 60s, 10m or 2h, above 0 and at most 7 days"
KEY = "expected the SHA-256 of the key, 64 hex digits in quotes; 'oxyy-proxy keys new ID' prints it"

PER_MILLION = (
    "input",
    "cached_input",
    "output",
    "audio_input",
    "audio_output",
    "image_input",
    "image_output",
    "character",
)
PER_ONE = ("image", "video_second", "audio_minute", "request")


def folder_of(files: dict[str, str], path: Path) -> Path:
    (path / "teams").mkdir(exist_ok=True)
    for name, text in {**VALID, **files}.items():
        (path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


def loaded(files: dict[str, str]) -> Policy:
    with tempfile.TemporaryDirectory() as path:
        return load(folder_of(files, Path(path))).policy


def price(written: str, unit: str = "input") -> int:
    models = VALID["models.yaml"].replace("{input: 0.1}", f"{{{unit}: {written}}}")
    return loaded({"models.yaml": models}).models["ada"].prices[unit].default


def cap(written: str, meter: str = "usd") -> int:
    return loaded({"gateway.yaml": f"limits: [{{meter: {meter}, per: day, cap: {written}}}]"}).limits[0].cap


@pytest.mark.parametrize(
    ("written", "nusd"),
    [
        ("0.1", 100_000_000),
        ("1.25", 1_250_000_000),
        ("0.000000001", 1),
        ("1e-9", 1),
        ("0.30000000", 300_000_000),
        ("123456.123456789", 123_456_123_456_789),
        ("999999.999999999", 999_999_999_999_999),
        ("1_000", 1_000_000_000_000),
        ("0", 0),
        ("0.0", 0),
    ],
)
def test_prices_and_caps_are_exact(written: str, nusd: int) -> None:
    assert price(written) == cap(written) == nusd


def test_a_cap_keeps_digits_that_a_float_would_round_away() -> None:
    assert cap("900000000.000000001") == 900_000_000_000_000_001


def test_a_price_per_piece_takes_fifteen_decimals() -> None:
    assert price("0.000000000000001", "image") == 1


@given(nano=st.integers(0, 10**15), unit=st.sampled_from(PER_MILLION))
@settings(max_examples=40, deadline=None)
def test_every_price_per_million_comes_back_exactly(nano: int, unit: str) -> None:
    written = f"{nano // 10**9}.{nano % 10**9:09d}"
    assert Fraction(price(written, unit), NUSD_PER_USD) == Fraction(written)


@given(femto=st.integers(0, 10**21), unit=st.sampled_from(PER_ONE))
@settings(max_examples=40, deadline=None)
def test_every_price_per_piece_comes_back_exactly(femto: int, unit: str) -> None:
    written = f"{femto // 10**15}.{femto % 10**15:015d}"
    assert Fraction(price(written, unit), NUSD_PER_USD * PRICE_SCALE) == Fraction(written)


@given(number=st.decimals(allow_nan=False, allow_infinity=False, min_value=-10, max_value=10**10))
@settings(max_examples=80, deadline=None)
def test_a_cap_is_exact_or_refused(number: Decimal) -> None:
    fits = 0 <= number <= 10**9 and Fraction(number) * NUSD_PER_USD % 1 == 0 and len(str(number)) <= 40
    if fits:
        assert Fraction(cap(str(number)), NUSD_PER_USD) == Fraction(number)
    else:
        with pytest.raises(PolicyInvalid):
            cap(str(number))


@pytest.mark.parametrize("meter", ["tokens", "requests"])
def test_other_caps_are_whole(meter: str) -> None:
    assert cap("400_000", meter) == 400_000
    assert cap("5.0", meter) == 5
    with pytest.raises(PolicyInvalid):
        cap("5.5", meter)


GATEWAY_VALUES = [
    ("version: 2", "1:10: expected 1, the only version of this file there is, got 2"),
    ("version: true", "1:10: expected 1, the only version of this file there is, got true"),
    ("version: 1\ndrain: -1s", f"2:8: {SPAN.replace('above', 'from')}, got '-1s'"),
    ("drain: .inf", f"1:8: {SPAN.replace('above', 'from')}, got '.inf'"),
    ("retry: {idle: 0}", f"1:15: {SPAN}, got 0"),
    ("retry: {idle: 5 s}", f"1:15: {SPAN}, got '5 s'"),
    ("retry: {idle: 1e999}", f"1:15: {SPAN}, got 1E+999"),
    ("video_job_timeout: 59s", f"1:20: {SPAN.replace('above 0', 'from 1m')}, got '59s'"),
    ("video_job_timeout: 169h", f"1:20: {SPAN.replace('above 0', 'from 1m')}, got '169h'"),
    ("allow_internal_urls: no", "1:22: expected true or false, got the text 'no'"),
    ("allow_internal_urls: 'true'", "1:22: expected true or false, got the text 'true'"),
    ("allow_internal_urls: 1", "1:22: expected true or false, got 1"),
    ("retry: {attempts: true}", "1:19: expected a whole number from 1 to 20, got true"),
    ("retry: {attempts: '3'}", "1:19: expected a whole number from 1 to 20, got the text '3'"),
    ("retry: {attempts: 3.0}", "1:19: expected a whole number from 1 to 20, got 3.0"),
    ("retry: {on: [200]}", "1:14: expected an HTTP status from 400 to 599, got 200"),
    ("timezone: Mars/Phobos", "1:11: unknown time zone 'Mars/Phobos'; expected a name such as UTC or Europe/Berlin"),
    ("timezone: ../../etc", "1:11: unknown time zone '../../etc'; expected a name such as UTC or Europe/Berlin"),
    ("timezone: 3", "1:11: expected text on one line, got 3; put it in quotes"),
    ("timezone: {a: b}", "1:11: expected text on one line, got a mapping"),
]


@pytest.mark.parametrize(("text", "expected"), GATEWAY_VALUES)
def test_a_wrong_value_of_the_gateway_names_its_place(write: Write, text: str, expected: str) -> None:
    assert errors(write({"gateway.yaml": text})) == [f"gateway.yaml:{expected}"]


MODEL_VALUES = [
    (
        "models: {'gpt 5': {endpoints: [chat]}}",
        "1:10: expected a model's name, without blanks, commas, *, ? or brackets, got 'gpt 5'",
    ),
    (
        "models: {a: {endpoints: [chat], price: {input: -1}}}",
        "1:48: expected a price in USD from 0 to 1000000 with at most 9 decimals, got -1",
    ),
    ("models: {a: {endpoints: [chat], price: {input: '1'}}}", "1:48: expected a number, got the text '1'"),
    ("models: {a: {endpoints: [chat], price: {input: .nan}}}", "1:48: expected a number, got the text '.nan'"),
    (
        "models: {a: {endpoints: [chat], price: {input: 0.0000000001}}}",
        "1:48: expected a price in USD from 0 to 1000000 with at most 9 decimals, got 1E-10",
    ),
    (
        "models: {a: {endpoints: [chat], price: {input: 1e-999999999}}}",
        "1:48: expected a price in USD from 0 to 1000000 with at most 9 decimals, got 1E-999999999",
    ),
    (
        "models: {a: {endpoints: [images], price: {image: {hd: 1}}}}",
        "1:50: the field 'default' is missing: the price where no variant fits",
    ),
    (
        "models: {a: {endpoints: [images], price: {image: {default: 1, hd: x}}}}",
        "1:67: expected a number, got the text 'x'",
    ),
    (
        "models: {a: {endpoints: [chat], max_output_tokens: 0}}",
        "1:52: expected a whole number from 1 to 10000000, got 0",
    ),
    (
        "models: {a: {endpoints: [videos], price: {video_second: 1}, default_seconds: 4.5}}",
        "1:78: expected a whole number from 1 to 7200, got 4.5",
    ),
    (
        "models: {a: {endpoints: [videos], price: {video_second: 1}, default_seconds: 4, max_seconds: 7201}}",
        "1:94: expected a whole number from 1 to 7200, got 7201",
    ),
]


@pytest.mark.parametrize(("text", "expected"), MODEL_VALUES)
def test_a_wrong_value_of_the_models_names_its_place(write: Write, text: str, expected: str) -> None:
    assert errors(write({"models.yaml": text})) == [f"models.yaml:{expected}"]


TEAM_VALUES = [
    (
        TEAM.replace("[gpt-5]", "['gpt 5']"),
        "5:18: expected a model's name or pattern, without blanks or commas, got 'gpt 5'",
    ),
    (TEAM + "mode: shadow", "6:7: mode: shadow is not available in this version; allowed: enforce"),
    (TEAM + "mode: on", "6:7: expected enforce, got 'on'"),
    (TEAM + "cost_center: 1042", "6:14: expected text on one line, got 1042; put it in quotes"),
    (
        TEAM.replace("id: prod", "id: pr/od"),
        "4:10: expected a name of letters, digits, '.', '_' and '-', at most 64, got 'pr/od'",
    ),
    (TEAM.replace(sha("prod"), "ok_search_secret"), f"4:24: {KEY}"),
    (
        TEAM.replace("}\nmodels", ", expires: 2027-02-30}\nmodels"),
        "4:101: expected a date such as 2027-06-30, got '2027-02-30'",
    ),
    (
        TEAM.replace("}\nmodels", ", expires: 2027-06-30 10:00:00}\nmodels"),
        "4:101: expected a date such as 2027-06-30, got '2027-06-30 10:00:00'",
    ),
    (limits("meter: usd, per: day, cap: '5'"), "7:33: expected a number, got the text '5'"),
    (
        limits("meter: usd, per: day, cap: 1, timezone: Nope"),
        "7:46: unknown time zone 'Nope'; expected a name such as UTC or Europe/Berlin",
    ),
]


@pytest.mark.parametrize(("text", "expected"), TEAM_VALUES)
def test_a_wrong_value_of_a_team_names_its_place(write: Write, text: str, expected: str) -> None:
    assert errors(write({"teams/search.yaml": text})) == [f"teams/search.yaml:{expected}"]


def test_a_pasted_key_is_never_quoted(write: Write) -> None:
    text = TEAM.replace(sha("prod"), "ok_search_secret")
    assert "secret" not in " ".join(errors(write({"teams/search.yaml": text})))


@pytest.mark.parametrize(
    ("written", "seconds"), [("500ms", 0.5), ("60s", 60), ("1.5m", 90), ("2h", 7200), ("45", 45), ("0.25", 0.25)]
)
def test_times_have_units_or_are_seconds(write: Write, written: str, seconds: float) -> None:
    models = VALID["models.yaml"].replace("[embeddings],", f"[embeddings], first_byte: {written}, answer: {written},")
    folder = write({"gateway.yaml": f"retry: {{idle: {written}}}\ndrain: {written}\n", "models.yaml": models})
    policy = load(folder).policy
    assert policy.retry.idle_s == policy.drain_s == seconds
    assert policy.models["ada"].first_byte_s == policy.models["ada"].answer_s == seconds


@pytest.mark.parametrize(("written", "seconds"), [("1m", 60), ("60", 60), ("24h", 86_400), ("168h", 604_800)])
def test_a_video_job_may_take_from_a_minute_to_a_week(written: str, seconds: float) -> None:
    assert loaded({"gateway.yaml": f"video_job_timeout: {written}"}).video_job_timeout_s == seconds


@pytest.mark.parametrize(("written", "expected"), [("true", True), ("True", True), ("false", False)])
def test_a_switch_is_true_or_false(written: str, expected: bool) -> None:
    assert loaded({"gateway.yaml": f"allow_internal_urls: {written}"}).allow_internal_urls is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "nothing"),
        (True, "true"),
        ("a" * 80, repr("a" * 60)),
        ("two\nlines", r"'two\nlines'"),
        ({"a": 1}, "a mapping"),
        ([1], "a list"),
        (date(2027, 6, 30), "the date 2027-06-30"),
        (7, "7"),
        (Decimal("1E+999"), "1E+999"),
    ],
)
def test_a_value_is_quoted_short_and_on_one_line(value: object, expected: str) -> None:
    assert shown(value) == expected


@pytest.mark.parametrize(
    ("number", "scale", "expected"),
    [
        ("0", 1, 0),
        ("-0.0", 1, 0),
        ("5", 1, 5),
        ("5.0", 1, 5),
        ("0.5", 10, 5),
        ("10", 1, 10),
        ("10.1", 1, None),
        ("0.55", 10, None),
        ("11", 1, None),
        ("-1", 1, None),
        ("1e-999999999", 10, None),
        ("1e999999999", 10, None),
    ],
)
def test_a_number_is_scaled_exactly_or_not_at_all(number: str, scale: int, expected: int | None) -> None:
    assert scaled(Decimal(number), scale, Decimal(10)) == expected


PIECES = (
    *("version", "models", "limits", "keys", "team", "price", "gpt-5", "usd", ": ", ":", "- ", "\n", "\n  ", "\n\t"),
    *("[", "]", "{", "}", ", ", "&a ", "*a", "<<", "? ", "| ", "> ", "'", '"', "!!int ", "!x ", "#", "---\n", "..."),
    *("%YAML 1.1\n", "1e9", "0x1f", ".nan", "-.inf", "2027-06-30", "2027-02-31", "12:30", "true", "no", "null", "~"),
    *("=", "\x00", "\u2028", "\ufeff", "\ud800", "0o7", "1_0", "_", "9" * 50, "1e99999", "[[[[", "{{{{"),
)
YAMLISH = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=30).map("".join)


@given(name=st.sampled_from(sorted(VALID)), text=YAMLISH)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_a_file_holds_it_loads_or_is_refused_with_a_place(name: str, text: str) -> None:
    assert_loads_or_is_refused({name: text})


@given(name=st.sampled_from(sorted(VALID)), at=st.integers(0, 400), length=st.integers(0, 20), text=YAMLISH)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_an_edit_breaks_it_loads_or_is_refused_with_a_place(
    name: str, at: int, length: int, text: str
) -> None:
    valid = VALID[name]
    assert_loads_or_is_refused({name: valid[:at] + text + valid[at + length :]})


def assert_loads_or_is_refused(files: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as path:
        findings = found_in(folder_of(files, Path(path)))
        for found in findings:
            assert found.line >= 1
            assert found.column >= 1
            assert found.message
            assert "\n" not in found.message
            # The finding can be printed anywhere.
            str(found).encode("utf-8")


def found_in(folder: Path) -> tuple[Finding, ...]:
    try:
        return load(folder).warnings
    except PolicyInvalid as invalid:
        return (*invalid.errors, *invalid.warnings)
