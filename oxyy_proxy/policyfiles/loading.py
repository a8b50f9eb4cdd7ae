"""A folder as it was read -> one immutable policy, or everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from oxyy_proxy.policyfiles.document import Value
from oxyy_proxy.policyfiles.findings import Loaded, PolicyInvalid
from oxyy_proxy.policyfiles.folder import GATEWAY, MODELS, Folder, read_folder
from oxyy_proxy.policyfiles.limits import build_limits
from oxyy_proxy.policyfiles.models import Catalogue, build_models
from oxyy_proxy.policyfiles.schema import BreakerSpec, GatewaySpec, ModelsSpec, RetrySpec, TeamSpec
from oxyy_proxy.policyfiles.source import Findings, Source
from oxyy_proxy.policyfiles.teams import build_teams
from oxyy_proxy.rules.types import BreakerPolicy, Limit, Policy, Retry


def load(folder: Path, now: float | None = None) -> Loaded:
    """Reads and checks all policy files of `folder`; with `now`, epoch seconds, warns of expired keys too.

    Raises `PolicyInvalid` with all errors of all files; never anything else for what a folder may hold.
    """
    return load_files(read_folder(folder), now)


def load_files(folder: Folder, now: float | None = None) -> Loaded:
    """Like `load`, for files that were read already."""
    findings = Findings(errors=list(folder.problems))
    gateway_file, models_file = folder.named(GATEWAY), folder.named(MODELS)
    gateway = models = None
    if gateway_file:
        gateway = Source(gateway_file, folder.files[gateway_file], GatewaySpec, findings, stand_ins={})
    if models_file:
        models = Source(models_file, folder.files[models_file], ModelsSpec, findings, stand_ins={"models": {}})
    teams = [_team(name, folder.files[name], findings) for name in folder.teams()]

    general = gateway.spec if gateway and gateway.spec else GatewaySpec()
    catalogue = build_models(models) if models else Catalogue()
    by_name, principals = build_teams(teams, catalogue, general.timezone, now)
    policy = Policy(
        version=folder.version,
        models=catalogue.models,
        teams=by_name,
        keys=principals,
        aliases=catalogue.aliases,
        default_models=catalogue.default_models,
        limits=_organisation(gateway, general, catalogue),
        retry=_retry(general.retry),
        breaker=_breaker(general.breaker),
        part_tokens=catalogue.part_tokens,
        on_disconnect=general.on_disconnect,
        drain_s=general.drain,
        allow_internal_urls=general.allow_internal_urls,
        video_job_timeout_s=general.video_job_timeout,
    )
    order = {name: rank for rank, name in enumerate([gateway_file, models_file, *folder.teams()])}
    for found in (findings.errors, findings.warnings):
        found.sort(key=lambda finding: (order.get(finding.file, -1), finding.file, finding.line, finding.column))
    if findings.errors:
        raise PolicyInvalid(folder.path, tuple(findings.errors), tuple(findings.warnings))
    return Loaded(policy, tuple(findings.warnings))


def _team(name: str, raw: bytes, findings: Findings) -> Source[TeamSpec]:
    stand_ins: dict[str, Value] = {"team": PurePosixPath(name).stem, "models": {"allow": []}}
    return Source(name, raw, TeamSpec, findings, stand_ins=stand_ins)


def _organisation(gateway: Source[GatewaySpec] | None, general: GatewaySpec, catalogue: Catalogue) -> tuple[Limit, ...]:
    if gateway is None:
        return ()
    return build_limits(
        gateway, general.limits, zone=general.timezone, models=catalogue.names, aliases=catalogue.aliases
    )


def _retry(spec: RetrySpec) -> Retry:
    return Retry(
        on=frozenset(spec.on),
        attempts=spec.attempts,
        deadline_s=spec.deadline,
        first_byte_s=spec.first_byte,
        answer_s=spec.answer,
        idle_s=spec.idle,
        budget_percent=spec.budget_percent,
    )


def _breaker(spec: BreakerSpec) -> BreakerPolicy:
    return BreakerPolicy(failures=spec.failures, window_s=spec.window, open_for_s=spec.open_for, slow_s=spec.slow)
