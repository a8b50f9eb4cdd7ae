"""`oxyy-proxy demo`: the proxy with the simulator beside it, for people who have no key yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from oxyy_proxy.app import Proxy

_GATEWAY = """\
version: 1
limits:
  - {meter: usd, per: month, cap: 1000}
"""

_TEAM = """\
version: 1
team: demo
cost_center: DEMO
keys:
  - {id: demo, sha256: "%s"}
models:
  allow: ["*"]
limits:
  - {meter: usd, per: day, cap: 10}
  - {meter: requests, per: minute, cap: 600}
  - {meter: concurrent, cap: 64}
"""

_BANNER = """
NOTHING HERE IS REAL: no organisation key is set, so a simulator answers instead of the oxyy API.
Set OXYY_API_KEY to talk to the real one. The team key below was made for this run.

With curl:

curl http://{listen}/v1/chat/completions \\
  -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
  -d '{{"model": "gpt-5", "messages": [{{"role": "user", "content": "Hello!"}}]}}'

With Python:

import json, urllib.request
request = urllib.request.Request("http://{listen}/v1/chat/completions", headers={{"Authorization": "Bearer {key}"}})
request.data = json.dumps({{"model": "gpt-5", "messages": [{{"role": "user", "content": "Hello!"}}]}}).encode()
print(json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"])

With the official SDK (pip install openai):

from openai import OpenAI
client = OpenAI(base_url="http://{listen}/v1", api_key="{key}")
answer = client.chat.completions.create(model="gpt-5", messages=[{{"role": "user", "content": "Hello!"}}])
print(answer.choices[0].message.content)

policies  {folder}
spend     {program} usage --ledger {ledger}
metrics   http://{admin}/metrics
upstream  {origin}/-/bill   what the simulator would charge
"""


def demo(
    listen: Annotated[str, typer.Option(help="Public address.", envvar="OXYY_LISTEN")] = "127.0.0.1:8080",
    admin: Annotated[str, typer.Option(help="Admin address.", envvar="OXYY_ADMIN")] = "127.0.0.1:9090",
    upstream: Annotated[str, typer.Option(help="The simulator's address.")] = "127.0.0.1:8081",
    pace_ms: Annotated[float, typer.Option(help="Time between the events of a stream.")] = 15,
) -> None:
    """Try the proxy without a key: a simulator beside it, throwaway policies and ledger, and lines to paste.

    Example: oxyy-proxy demo --listen 127.0.0.1:8000
    """
    import asyncio
    import tempfile

    with tempfile.TemporaryDirectory(prefix="oxyy-demo-") as folder:
        asyncio.run(_run(Path(folder), listen, admin, upstream, pace_ms))


async def _run(folder: Path, listen: str, admin: str, upstream: str, pace_ms: float) -> None:
    import asyncio
    import secrets
    import sys

    from pydantic import SecretStr

    from oxyy_proxy.app import Proxy
    from oxyy_proxy.errors import StartupError
    from oxyy_proxy.settings import Settings, address
    from oxyy_proxy.simulator import Simulator

    key = f"ok_demo_{secrets.token_urlsafe(24)}"
    write_policies(folder / "policies", key)
    simulator = Simulator(pace_ms=pace_ms)
    host, port = address(upstream)
    try:
        await simulator.start(host, port)
    except OSError as error:
        raise StartupError(
            f"the simulator cannot listen on {upstream}: {error.strerror}; choose another with --upstream"
        ) from None
    try:
        settings = Settings(
            upstream_url=simulator.url,
            policies=folder / "policies",
            ledger=f"sqlite:///{folder}/ledger.db",
            listen=listen,
            admin=admin,
            api_key=SecretStr("sk-simulated"),
            log_format="console" if sys.stdout.isatty() else "json",
        )
        proxy = Proxy(settings)
        await proxy.start()
        # Shown once `run` handles signals: Ctrl-C right after it is a clean end.
        asyncio.get_running_loop().call_soon(typer.echo, _banner(proxy, key, folder, simulator.origin))
        await proxy.run()
    finally:
        await simulator.stop()


def write_policies(folder: Path, key: str) -> None:
    """A policy folder that allows everything the simulator has to the one team that holds `key`."""
    from hashlib import sha256

    (folder / "teams").mkdir(parents=True)
    (folder / "gateway.yaml").write_text(_GATEWAY)
    (folder / "models.yaml").write_text(models_yaml())
    (folder / "teams" / "demo.yaml").write_text(_TEAM % sha256(key.encode()).hexdigest())


def models_yaml() -> str:
    """models.yaml with the simulator's price list."""
    from oxyy_proxy.simulator import DEFAULT_PRICES, served

    lines = ["version: 1", "models:"]
    for name, prices in DEFAULT_PRICES.items():
        endpoints = ", ".join(sorted(served(prices)))
        units = ", ".join(f"{unit}: {_price(price)}" for unit, price in prices.items() if unit != "endpoints")
        lines.append(f"  {name}: {{endpoints: [{endpoints}], price: {{{units}}}}}")
    return "\n".join(lines) + "\n"


def _price(price: object) -> str:
    """One price, or its variants, in YAML."""
    if not isinstance(price, dict):
        return str(price)
    # In quotes: YAML would read a name such as 720 as a number.
    return "{" + ", ".join(f'"{variant}": {amount}' for variant, amount in price.items()) + "}"


def _banner(proxy: Proxy, key: str, folder: Path, origin: str) -> str:
    import sys

    return _BANNER.format(
        listen=proxy.public.address,
        admin=proxy.admin.address,
        key=key,
        folder=folder / "policies",
        origin=origin,
        ledger=f"sqlite:///{folder}/ledger.db",
        program=f"{sys.executable} -m oxyy_proxy" if sys.argv[0].endswith("__main__.py") else sys.argv[0],
    )
