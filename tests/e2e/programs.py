"""Programs of others as clients of a proxy that runs in this process."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

NODE_FOLDER = Path(__file__).parent / "node"
NODE_PACKAGES = NODE_FOLDER / "node_modules"

LIMIT_S = 60
"""Longest that a program may take; generous, for machines that are busy."""


@dataclass(frozen=True)
class Ended:
    """How a program ended. `stderr` is for whoever reads a failure: curl draws its progress there, SDKs warn."""

    code: int
    stdout: str
    stderr: str


def require_node() -> str:
    """The path of Node.js, beside which the official SDK is installed. What is missing skips, but fails with CI=true,
    as `require_tool` has it."""
    node = shutil.which("node")
    if node is not None and (NODE_PACKAGES / "openai").is_dir():
        return node
    found = "the npm package openai" if node else "Node.js 20 or later"
    missing = f"{found} is not installed: apt-get install nodejs npm, then npm install --prefix {NODE_FOLDER}"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


async def run(folder: Path, *command: str, **environ: str) -> Ended:
    """Run a program in `folder`, with nothing of this process's environment that could change what it does. Raises
    TimeoutError, once it is dead."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **environ},
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            stdout, stderr = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Ended(process.returncode, stdout.decode(), stderr.decode())
