from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from oxyy_proxy.errors import StartupError
from oxyy_proxy.settings import Settings, address, read_settings


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("OXYY_")]:
        monkeypatch.delenv(name)


def test_the_defaults_are_the_documented_ones() -> None:
    found = read_settings()
    assert (found.upstream_url, found.policies) == ("https://api.oxyy.ai/v1", Path("policies"))
    assert (found.ledger, found.listen, found.admin) == (
        "sqlite:///oxyy-ledger.db", "127.0.0.1:8080", "127.0.0.1:9090",
    )  # fmt: skip
    assert (found.durability, found.log_format) == ("process", "json")


ENVIRONMENT = {
    "upstream_url": ("OXYY_UPSTREAM_URL", "http://a/v1", "http://b/v1"),
    "policies": ("OXYY_POLICIES", Path("a"), Path("b")),
    "ledger": ("OXYY_LEDGER", "sqlite:///a.db", "sqlite:///b.db"),
    "listen": ("OXYY_LISTEN", "127.0.0.1:1", "127.0.0.1:2"),
    "admin": ("OXYY_ADMIN", "127.0.0.1:3", "127.0.0.1:4"),
    "durability": ("OXYY_DURABILITY", "power", "process"),
    "log_format": ("OXYY_LOG_FORMAT", "console", "json"),
}


@pytest.mark.parametrize("field", ENVIRONMENT)
def test_a_flag_wins_over_the_environment_and_that_over_the_default(
    monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    variable, in_environment, as_flag = ENVIRONMENT[field]
    monkeypatch.setenv(variable, str(in_environment))
    assert getattr(read_settings(**{field: None}), field) == in_environment
    assert getattr(read_settings(**{field: as_flag}), field) == as_flag


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"durability": "none"}, r"^--durability / OXYY_DURABILITY: .*'process' or 'power'$"),
        ({"log_format": "xml"}, r"^--log-format / OXYY_LOG_FORMAT: .*'json' or 'console'$"),
    ],
)
def test_a_bad_value_is_one_line_that_names_flag_and_variable(flags: dict[str, str], line: str) -> None:
    with pytest.raises(StartupError, match=line) as caught:
        read_settings(**flags)
    assert "\n" not in str(caught.value)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        read_settings().listen = "0.0.0.0:1"  # type: ignore[misc]


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OXYY_API_KEY", " sk-one\n")
    assert read_settings().org_key() == "sk-one"


def test_the_key_comes_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-two\n")
    monkeypatch.setenv("OXYY_API_KEY_FILE", str(tmp_path / "key"))
    assert read_settings().org_key() == "sk-two"
    monkeypatch.setenv("OXYY_API_KEY", "sk-one")
    assert read_settings().org_key() == "sk-one"
    monkeypatch.setenv("OXYY_API_KEY", "")
    assert read_settings().org_key() == "sk-two"


def test_the_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OXYY_API_KEY", "sk-secret")
    assert "sk-secret" not in repr(read_settings()) + str(read_settings()) + read_settings().model_dump_json()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "cannot be read"),
        (b"", "no organisation key: set OXYY_API_KEY or OXYY_API_KEY_FILE"),
        (b" \n\n", "no organisation key"),
        (b"sk-\xff", "cannot be read"),
        ("sk-é".encode(), "holds characters that no key has"),
        (b"sk-one\nsk-two\n", "holds characters that no key has"),
        (b"sk-\x00", "holds characters that no key has"),
    ],
)
def test_a_key_file_that_is_none_is_one_line(tmp_path: Path, content: bytes | None, line: str) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StartupError, match=line) as caught:
        Settings(api_key_file=file).org_key()
    assert "\n" not in str(caught.value)
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("::1:80", ("::1", 80)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
    ],
)
def test_an_address_is_host_and_port(text: str, parts: tuple[str, int]) -> None:
    assert address(text) == parts


@pytest.mark.parametrize("text", ["", "8080", ":8080", "host", "host:", "host:http", "host:65536", "host:-1", "h:1.5"])
def test_what_is_no_address_is_one_line_with_an_example(text: str) -> None:
    with pytest.raises(StartupError, match=r"is not an address; use HOST:PORT, such as 127\.0\.0\.1:8080$"):
        address(text)


@pytest.mark.parametrize("text", ["host:\u00b2", "host:\u0663"])
def test_digits_of_other_scripts_are_no_port(text: str) -> None:
    with pytest.raises(StartupError):
        address(text)
