"""A proxy and a simulator in this process, on real sockets with a real ledger file, as most tests want them."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import SecretStr

from oxyy_proxy.app import Proxy
from oxyy_proxy.settings import Settings
from oxyy_proxy.simulator import Simulator

KEY = "team-key-search"
OTHER_KEY = "team-key-support"
ORG_KEY = "sk-organisation"

PRICES = {
    "gpt-5": {"input": "1.25", "cached_input": "0.125", "output": "10.00"},
    "gpt-5-mini": {"input": "0.25", "cached_input": "0.025", "output": "2.00"},
    "claude-opus-4.6": {"input": "15", "cached_input": "1.5", "output": "75"},
    "text-embedding-3-small": {"input": "0.02"},
    "dall-e-3": {"image": {"default": "0.04", "1024x1792": "0.08", "hd:1024x1024": "0.08"}},
    "gpt-image-1": {"input": "5", "image_input": "10", "image_output": "40"},
    "veo-3": {"video_second": {"default": "0.40", "1080p": "0.50"}},
    "whisper-1": {"audio_minute": "0.006"},
    "gpt-4o-mini-transcribe": {"input": "1.25", "audio_input": "3", "output": "5", "endpoints": ["transcriptions"]},
    "tts-1-hd": {"character": "30"},
}
"""Of the simulator, in USD; `MODELS` has the same."""

GATEWAY = "version: 1\n"

MODELS = """
version: 1
models:
  gpt-5: {endpoints: [chat], price: {input: 1.25, cached_input: 0.125, output: 10.00}, fallbacks: [gpt-5-mini]}
  gpt-5-mini: {endpoints: [chat], price: {input: 0.25, cached_input: 0.025, output: 2.00}, fallbacks: []}
  claude-opus-4.6: {endpoints: [chat], price: {input: 15, cached_input: 1.5, output: 75}}
  text-embedding-3-small: {endpoints: [embeddings], price: {input: 0.02}}
  dall-e-3:
    endpoints: [images, image_edits]
    price: {image: {default: 0.04, "1024x1792": 0.08, "hd:1024x1024": 0.08}}
  gpt-image-1: {endpoints: [images, image_edits], price: {input: 5, image_input: 10, image_output: 40}}
  veo-3: {endpoints: [videos], price: {video_second: {default: 0.40, 1080p: 0.50}}, max_seconds: 60}
  whisper-1: {endpoints: [transcriptions], price: {audio_minute: 0.006}}
  gpt-4o-mini-transcribe: {endpoints: [transcriptions], price: {input: 1.25, audio_input: 3, output: 5}}
  tts-1-hd: {endpoints: [speech], price: {character: 30}}
  unpriced: {endpoints: [chat]}
aliases: {fast: gpt-5-mini}
"""

TEAM = """
version: 1
team: %(team)s
cost_center: CC-%(team)s
keys: [{id: %(team)s-key, sha256: "%(sha)s"}]
models: {allow: [%(allow)s]}
limits: [%(limits)s]
"""


def team_file(
    team: str = "search",
    key: str = KEY,
    allow: str = '"*"',
    limits: str = "{meter: usd, per: month, cap: 1000}",
) -> str:
    """A team's YAML."""
    sha = hashlib.sha256(key.encode()).hexdigest()
    return TEAM % {"team": team, "sha": sha, "allow": allow, "limits": limits}


@dataclass
class Rig:
    """`proxy` answers at `url`; `simulator` is its upstream. Both are started by `start` and stopped by `stop`."""

    folder: Path
    gateway: str = GATEWAY
    models: str = MODELS
    teams: dict[str, str] = field(default_factory=lambda: {"search": team_file()})
    upstream_url: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    simulator: Simulator = field(default_factory=lambda: Simulator(prices=PRICES, org_key=ORG_KEY))

    async def start(self) -> Rig:
        self.write_policies()
        await self.simulator.start()
        self.client = aiohttp.ClientSession()
        await self.start_proxy()
        return self

    async def start_proxy(self) -> None:
        self.proxy = Proxy(
            Settings(
                upstream_url=self.upstream_url or self.simulator.url,
                policies=self.folder / "policies",
                ledger=f"sqlite:///{self.ledger_path}",
                listen="127.0.0.1:0",
                admin="127.0.0.1:0",
                api_key=SecretStr(ORG_KEY),
                **self.settings,
            )
        )
        await self.proxy.start()

    async def stop(self) -> None:
        await self.client.close()
        await self.proxy.stop()
        await self.simulator.stop()

    def write_policies(self) -> None:
        teams = self.folder / "policies" / "teams"
        teams.mkdir(parents=True, exist_ok=True)
        (teams.parent / "gateway.yaml").write_text(self.gateway)
        (teams.parent / "models.yaml").write_text(self.models)
        for name, text in self.teams.items():
            (teams / f"{name}.yaml").write_text(text)

    @property
    def ledger_path(self) -> Path:
        return self.folder / "ledger.db"

    @property
    def url(self) -> str:
        return f"http://{self.proxy.public.address}/v1"

    @property
    def admin_url(self) -> str:
        return f"http://{self.proxy.admin.address}"

    async def post(self, path: str, body: Any, key: str | None = KEY, **headers: str) -> tuple[int, Any, Any]:
        """(status, headers, body: decoded JSON, else bytes) of a POST below /v1; `body` bytes are sent as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **headers}
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        async with self.client.post(self.url + path, data=data, headers=sent) as answer:
            return await _heard(answer)

    async def get(self, path: str, key: str = KEY) -> tuple[int, Any, Any]:
        """(status, headers, body) of a GET below /v1, as `post` gives them."""
        async with self.client.get(self.url + path, headers={"Authorization": f"Bearer {key}"}) as answer:
            return await _heard(answer)

    async def send_form(self, path: str, fields: Mapping[str, str | tuple[str, bytes]], key: str = KEY) -> Any:
        """(status, headers, body) of a multipart POST below /v1; a pair is a file: its name and its bytes."""
        form = aiohttp.FormData()
        for name, value in fields.items():
            if isinstance(value, str):
                form.add_field(name, value)
            else:
                form.add_field(name, value[1], filename=value[0], content_type="application/octet-stream")
        data = form()
        headers = {"Authorization": f"Bearer {key}", **data.headers}
        async with self.client.post(self.url + path, data=data, headers=headers) as answer:
            return await _heard(answer)

    async def chat(self, key: str | None = KEY, **members: Any) -> tuple[int, Any, Any]:
        """A chat request; members are added to, or replace, a small default body."""
        body = {"model": "gpt-5", "messages": [{"role": "user", "content": "Hello!"}], **members}
        return await self.post("/chat/completions", body, key)

    def rows(self, query: str = "SELECT * FROM usage ORDER BY request_id") -> list[dict[str, Any]]:
        """Rows of the ledger as dictionaries."""
        with sqlite3.connect(f"file:{self.ledger_path}?mode=ro", uri=True) as db:
            db.row_factory = sqlite3.Row
            found = [dict(row) for row in db.execute(query)]
        db.close()
        return found


async def _heard(answer: aiohttp.ClientResponse) -> tuple[int, Any, Any]:
    raw = await answer.read()
    is_json = answer.headers.get("Content-Type", "").startswith("application/json")
    return answer.status, answer.headers, json.loads(raw) if is_json and raw else raw
