"""Every module of oxyy_proxy has its test file: oxyy_proxy/a/b.py -> tests/a/test_b.py. Run by `make check`."""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGE, TESTS = Path("oxyy_proxy"), Path("tests")


def missing() -> list[str]:
    """The test files that are not there."""
    wanted = []
    for module in sorted(PACKAGE.rglob("*.py")):
        if module.name == "__init__.py":
            continue
        test = TESTS / module.relative_to(PACKAGE).with_name(f"test_{module.stem.strip('_')}.py")
        if not test.exists():
            wanted.append(f"{module} has no {test}")
    return wanted


if __name__ == "__main__":
    found = missing()
    print("\n".join(found) or "every module has its test file")
    sys.exit(bool(found))
