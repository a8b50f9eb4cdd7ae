"""A test that needs a program which is not there is skipped, but never in CI."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import require_tool


def test_a_tool_that_is_there_is_its_path() -> None:
    assert require_tool("make").endswith("/make")


def test_a_missing_tool_skips_and_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="promtool is not installed: apt-get install prometheus"):
        require_tool("promtool")


def test_a_missing_tool_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="promtool is not installed"):
        require_tool("promtool")
