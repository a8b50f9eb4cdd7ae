"""Money is exact, and no text of any kind gets further than a finding."""

from __future__ import annotations

import tempfile
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oxyy_proxy.policyfiles import Finding, PolicyInvalid, load
from oxyy_proxy.rules.types import NUSD_PER_USD, PRICE_SCALE, Policy
from tests.policyfiles.conftest import VALID

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
