"""What the tests of metrics and of log lines share."""

from __future__ import annotations

from typing import Any

from oxyy_proxy.steps.state import Exchange
from tests.rules.policies import policy

_POLICY = policy()


def ended(**more: Any) -> Exchange:
    """A request that was answered after half a second."""
    said = {
        "request_id": "req_1", "started_at": 1_700_000_000.0, "started": 10.0, "policy": _POLICY, "team": "search",
        "key_id": "search-prod", "endpoint": "videos", "model_requested": "veo-3", "model_label": "veo-3",
        "status": 200, "attempts": 1, "cost_nusd": 40, "duration_s": 0.5, "upstream_s": 0.4,
    }  # fmt: skip
    return Exchange(**{**said, **more})
