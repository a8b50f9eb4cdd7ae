"""Programs that tests run end by themselves or are ended, and what a test needs of Node.js is there or is named."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.e2e import programs

SLEEPER = "echo $$ > pid; exec sleep 1000"


async def test_what_a_program_says_and_how_it_ends_is_told(tmp_path: Path) -> None:
    source = "import os, sys; print(os.getcwd(), os.environ['ASKED']); sys.exit('no')"
    ended = await programs.run(tmp_path, sys.executable, "-c", source, ASKED="so")
    assert ended == programs.Ended(1, f"{tmp_path} so\n", "no\n")


async def test_a_program_sees_no_settings_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    ended = await programs.run(tmp_path, sys.executable, "-c", "import os; print(os.environ.get('OPENAI_BASE_URL'))")
    assert ended.stdout == "None\n"


async def test_a_program_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "LIMIT_S", 1)
    with pytest.raises(TimeoutError):
        await programs.run(tmp_path, "sh", "-c", SLEEPER)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize("missing", ["node", "package"])
def test_missing_parts_of_node_skip_but_fail_in_ci(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    (tmp_path / "node").touch(mode=0o755)
    monkeypatch.setenv("PATH", "" if missing == "node" else str(tmp_path))
    monkeypatch.setattr(programs, "NODE_PACKAGES", tmp_path)
    said = "Node.js 20 or later" if missing == "node" else "the npm package openai"
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"{said} is not installed: .*npm install"):
        programs.require_node()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=said):
        programs.require_node()
