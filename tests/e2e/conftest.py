"""Programs that end-to-end tests need beside Python."""

from __future__ import annotations

import os
import shutil

import pytest

_HOW_TO_INSTALL = {
    "curl": "apt-get install curl",
    "make": "apt-get install make",
    "prometheus": "apt-get install prometheus",
    "promtool": "apt-get install prometheus",
}


def require_tool(name: str) -> str:
    """The path of a program. Where it is missing the test is skipped; with CI=true it fails, so that no pipeline is
    green because nothing ran."""
    path = shutil.which(name)
    if path is None:
        missing = f"{name} is not installed: {_HOW_TO_INSTALL[name]}"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return path
