"""GET /v1/videos/generations/{id}: answered by the upstream, to the team whose job it is; its end is settled first."""

from __future__ import annotations

from time import monotonic

from oxyy_proxy import web
from oxyy_proxy.endpoints import videos
from oxyy_proxy.errors import JobNotFound, UpstreamAuth, UpstreamBadResponse
from oxyy_proxy.ledger.base import Job
from oxyy_proxy.rules.types import Principal
from oxyy_proxy.steps.relay import answer_lines
from oxyy_proxy.steps.response import WholeAnswer
from oxyy_proxy.steps.state import Exchange, Services

LIMIT_S = 60.0
"""How long the upstream may take to tell of a job."""


async def job_status(services: Services, x: Exchange, principal: Principal, job_id: str) -> web.StreamResponse:
    """The upstream's answer, unchanged. A job's end is on record before the client hears of it. Raises JobNotFound for
    an unknown job and for another team's alike; UpstreamFailure."""
    job = await services.ledger.job(job_id) if len(job_id) <= videos.MAX_ID_CHARS else None
    if job is None or job.team != principal.team.name:
        raise JobNotFound(
            "There is no such job of this team. Use the id that POST /v1/videos/generations answered with.", param="id"
        )
    x.model_label = x.model_requested = x.model_served = job.model
    status, content_type, body = await _ask(services, x, job)
    if status == 200:
        await services.jobs.seen(job, videos.read_job(job.job_id, body))
    elif status in (401, 403):
        raise UpstreamAuth.refused()
    elif status < 400:
        raise UpstreamBadResponse(f"The upstream answered {status}, which is not an answer. Retry.")
    x.status = status
    return WholeAnswer(status, f"{answer_lines(x)}Content-Type: {content_type}\r\n", body)


async def _ask(services: Services, x: Exchange, job: Job) -> tuple[int, str, bytes]:
    sent = monotonic()
    headers = f"x-request-id: {x.request_id}\r\n{x.forwarded}"
    try:
        return await services.upstream.fetch(videos.path_of(job.job_id), headers, min(LIMIT_S, x.deadline - sent))
    finally:
        x.upstream_s += monotonic() - sent
