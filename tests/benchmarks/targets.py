"""What stands between load and upstream, and how each is started."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.processes import CouldNotStart, Pinned, cpu_ns, free_port, rss_bytes
from tests.benchmarks.workloads import INPUT_USD_PER_M, MODEL, OUTPUT_USD_PER_M

KEY = "sk-team-bench-0123456789abcdef0123456789abcdef"
DIRECT, NGINX, NAIVE, PROXY = "direct", "nginx", "naive", "proxy"
TARGETS = (DIRECT, NGINX, NAIVE, PROXY)

_GATEWAY = """\
version: 1
limits:
  - {meter: usd, per: month, cap: 50000000}
"""
_MODELS = f"""\
version: 1
models:
  {MODEL}:
    endpoints: [chat]
    price: {{input: {INPUT_USD_PER_M}, output: {OUTPUT_USD_PER_M}}}
    max_output_tokens: 16384
"""
_TEAM = f"""\
version: 1
team: bench
cost_center: CC-1
keys:
  - {{id: bench-1, sha256: "{hashlib.sha256(KEY.encode()).hexdigest()}"}}
models:
  allow: ["gpt-*"]
limits:
  - {{meter: usd, per: month, cap: 10000000}}
  - {{meter: tokens, per: day, cap: 1000000000000}}
  - {{meter: requests, per: minute, cap: 1000000000}}
  - {{meter: concurrent, cap: 100000}}
"""
_NGINX = """\
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  upstream stub {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://stub;
      proxy_http_version 1.1;
      proxy_buffering off;
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer sk-bench";
    }}
  }}
}}
"""


@dataclass(slots=True)
class Target:
    """A running target. `ready_s`: from its spawn. `ledger`: only the proxy keeps one."""

    name: str
    port: int
    process: Pinned | None = None
    ready_s: float = 0.0
    ledger: Path | None = None

    def cpu_ns(self) -> int:
        return cpu_ns(self.process.popen.pid) if self.process else 0

    def rss_bytes(self) -> int:
        return rss_bytes(self.process.popen.pid) if self.process else 0

    def stop(self, within_s: float = 5.0) -> None:
        """Ends it; what it has not finished within `within_s` is cut."""
        if self.process:
            self.process.stop(within_s)


@dataclass(frozen=True, slots=True)
class Stage:
    """Where targets are started: files, the upstream's port, the core they are pinned to. `under` is the command that
    runs those in Python, `environment` is for them too."""

    folder: Path
    upstream_port: int
    core: int
    under: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_within_s: float = 20.0

    def start(self, name: str) -> Target:
        """A target that is ready to serve; its files are new. Raises `CouldNotStart`."""
        if name == DIRECT:
            return Target(DIRECT, self.upstream_port)
        folder = self.folder / f"{name}-{time.monotonic_ns()}"
        folder.mkdir(mode=0o700)
        return self.start_in(folder, name)

    def start_in(self, folder: Path, name: str) -> Target:
        """The same with the files of an earlier start, if `folder` has them."""
        starts: dict[str, Callable[[Path], Target]] = {NGINX: self._nginx, NAIVE: self._naive, PROXY: self._proxy}
        return starts[name](folder)

    def _nginx(self, folder: Path) -> Target:
        port, config = free_port(), folder / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(_NGINX.format(user=user, folder=folder, upstream=self.upstream_port, port=port))
        command = [nginx() or "nginx", "-p", str(folder), "-c", str(config), "-e", str(folder / "nginx-error.log")]
        process = Pinned.spawn(NGINX, command, self.core, folder)
        return self._ready(Target(NGINX, port, process), port, None)

    def _naive(self, folder: Path) -> Target:
        port = free_port()
        arguments = [str(port), f"http://127.0.0.1:{self.upstream_port}"]
        process = self._python(NAIVE, ["tests.benchmarks.naive", *arguments], folder)
        return self._ready(Target(NAIVE, port, process), port, None)

    def _proxy(self, folder: Path) -> Target:
        policies, ledger = folder / "policies", folder / "ledger.db"
        write_policies(policies)
        port, admin = free_port(), free_port()
        flags = {
            "--upstream": f"http://127.0.0.1:{self.upstream_port}/v1",
            "--policies": str(policies),
            "--ledger": f"sqlite:///{ledger}",
            "--listen": f"127.0.0.1:{port}",
            "--admin": f"127.0.0.1:{admin}",
        }
        words = ["oxyy_proxy", "serve", *(word for pair in flags.items() for word in pair)]
        process = self._python(PROXY, words, folder, {"OXYY_API_KEY": "sk-bench"})
        return self._ready(Target(PROXY, port, process, ledger=ledger), admin, "/readyz")

    def _python(self, name: str, module: list[str], folder: Path, environment: Mapping[str, str] = {}) -> Pinned:
        command = [*self.under, sys.executable, "-m", *module]
        return Pinned.spawn(name, command, self.core, folder, {**self.environment, **environment})

    def _ready(self, target: Target, port: int, path: str | None) -> Target:
        assert target.process is not None
        try:
            target.ready_s = target.process.until_ready(port, path, self.ready_within_s)
        except CouldNotStart:
            target.stop()
            raise
        return target


def nginx() -> str | None:
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def write_policies(folder: Path) -> None:
    """A team with a key, four limits whose caps are never met, and a limit of the organisation: each is counted."""
    (folder / "teams").mkdir(parents=True, exist_ok=True)
    (folder / "gateway.yaml").write_text(_GATEWAY)
    (folder / "models.yaml").write_text(_MODELS)
    (folder / "teams" / "bench.yaml").write_text(_TEAM)
