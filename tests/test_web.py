from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

LOOK = """
import json, os, ssl, sys
before = dict(os.environ)
from oxyy_proxy import web
from aiohttp import connector
trusting = [connector._SSL_CONTEXT_VERIFIED, connector._SSL_CONTEXT_UNVERIFIED]
print(json.dumps({
    "environment_kept": dict(os.environ) == before,
    "certificates": [context.cert_store_stats()["x509"] for context in trusting],
    "verifies": connector._SSL_CONTEXT_VERIFIED.verify_mode == ssl.CERT_REQUIRED,
    "modules": [name for name in sys.modules if name.startswith("aiohttp.web")],
}))
"""


@pytest.mark.parametrize("named", [{}, {"SSL_CERT_FILE": "/etc/ca.pem", "SSL_CERT_DIR": ""}])
def test_the_server_comes_without_a_framework_and_without_certificates_for_a_client(named: dict[str, str]) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SSL_CERT_")}
    run = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, env={**inherited, **named}, timeout=60)
    found = json.loads(run.stdout)
    assert found["environment_kept"]
    assert found["certificates"] == [0, 0]
    assert found["verifies"]
    assert "aiohttp.web_server" in found["modules"]
    assert not {"aiohttp.web", "aiohttp.web_app", "aiohttp.web_urldispatcher"} & set(found["modules"])
