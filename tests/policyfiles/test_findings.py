"""How what is wrong reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from oxyy_proxy.errors import StartupError
from oxyy_proxy.policyfiles import Finding, PolicyInvalid, load
from tests.policyfiles.conftest import Write

SPAN = "expected a time such as 500ms, 60s, 10m or 2h, above 0 and at most 7 days"


def test_a_finding_reads_as_compilers_write_them() -> None:
    assert str(Finding("teams/search.yaml", 7, 3, "message")) == "teams/search.yaml:7:3: message"


def test_the_exception_is_one_line_that_names_the_first_error_and_the_next_step(write: Write) -> None:
    folder = write({"gateway.yaml": "drain: x\nversion: 3\n"})
    with pytest.raises(StartupError) as caught:
        load(folder)
    expected = (
        f"gateway.yaml:1:8: {SPAN.replace('above', 'from')}, got 'x', and 1 more; run 'oxyy-proxy check {folder}'"
    )
    assert str(caught.value) == expected


def test_a_single_error_is_not_said_to_have_company() -> None:
    only, warning = Finding("gateway.yaml", 1, 2, "wrong"), Finding("models.yaml", 3, 4, "odd")
    invalid = PolicyInvalid(Path("policies"), (only,), (warning,))
    assert str(invalid) == "gateway.yaml:1:2: wrong; run 'oxyy-proxy check policies'"
    assert (invalid.errors, invalid.warnings) == ((only,), (warning,))


def test_all_errors_and_warnings_are_carried_along(write: Write) -> None:
    limits = "limits: [{meter: usd, per: day, cap: 1, models: ['GPT-5']}]\n"
    with pytest.raises(PolicyInvalid) as caught:
        load(write({"gateway.yaml": "drain: x\nversion: 3\n" + limits}))
    assert [(error.line, error.column) for error in caught.value.errors] == [(1, 8), (2, 10)]
    assert [warning.message for warning in caught.value.warnings] == ["'GPT-5' matches no model of models.yaml"]
