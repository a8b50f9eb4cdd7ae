"""`oxyy-proxy demo`: the proxy with the simulator beside it, for people who have no key yet."""

from __future__ import annotations


def demo() -> None:
    """x"""
