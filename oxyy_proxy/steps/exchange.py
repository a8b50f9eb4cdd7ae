"""The way of a request: `Exchange` in, answer out, every step in its place.

parse the head → authenticate → route → read and parse the body → decide → hold → attempt → relay and settle → record
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from time import monotonic

import orjson

from oxyy_proxy import web
from oxyy_proxy.endpoints import ENDPOINTS, models, videos
from oxyy_proxy.endpoints.base import Ask, Endpoint
from oxyy_proxy.errors import (
    DeadlinePassed,
    Draining,
    InternalError,
    InvalidValue,
    MalformedRequest,
    MethodNotAllowed,
    Overloaded,
    ProxyError,
    RequestTooLarge,
    UnknownUrl,
    UnsupportedEncoding,
    UpstreamFailure,
    UpstreamStatus,
)
from oxyy_proxy.reports import team_usage
from oxyy_proxy.rules.budget import watching
from oxyy_proxy.rules.hints import is_retry, patience_s
from oxyy_proxy.rules.requestid import request_id
from oxyy_proxy.rules.route import chain
from oxyy_proxy.rules.types import Limit, Model, Policy, Principal
from oxyy_proxy.steps.attempt import attempt, others
from oxyy_proxy.steps.authenticate import authenticate
from oxyy_proxy.steps.hold import Hold
from oxyy_proxy.steps.job import job_status
from oxyy_proxy.steps.receive import receive
from oxyy_proxy.steps.relay import answer_lines, as_lines, relay
from oxyy_proxy.steps.response import WholeAnswer
from oxyy_proxy.steps.state import Call, Exchange, Services
from oxyy_proxy.sweep import SWEEP_EVERY_S
from oxyy_proxy.uploads import TEAM_SHARE
from oxyy_proxy.web import ACCEPT, AUTHORIZATION, TRANSFER_ENCODING, USER_AGENT, HttpVersion10, HttpVersion11

PREFIX = "/v1"

LATE_S = 1.5 * SWEEP_EVERY_S
"""How late a wait may be ended, and its end told."""

TAG_MAX_CHARS = 64
CLIENT_ID_MAX_CHARS = 128
MODEL_MAX_CHARS = 200

_USAGE_PATH = f"{PREFIX}/usage"
_MODELS_PATH = PREFIX + models.PATH
_JOBS_PATH = f"{PREFIX}{videos.ENDPOINT.path}/"
_POSTS = {PREFIX + endpoint.path: endpoint for endpoint in ENDPOINTS}


class Exchanges:
    """Handles every request of the public listener."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._policy: Policy | None = None
        self._routes: dict[tuple[str, str, str, str | None], tuple[str, tuple[Model, ...], tuple[Limit, ...]]] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request, to its end. Never raises but for cancellation by the server."""
        services = self._services
        x = self._begin(request)
        task = request.task
        services.running.add(task)
        try:
            response = await self._answer(x, request)
        except ProxyError as error:
            response = _refusal(x, error)
        except asyncio.CancelledError:
            if x.committed or not services.draining:
                raise
            response = _refusal(x, Draining("The proxy is restarting. Retry.", headers={"Retry-After": "1"}))
        except Exception as error:  # noqa: BLE001 - the client gets an answer of ours, the operator the traceback
            services.log.error("defect", error, request_id=x.request_id)
            if x.committed and request.transport is not None:
                request.transport.abort()  # the answer has begun; it must not look complete
            response = _refusal(x, InternalError("The proxy failed; its operator has been told. Retry."))
        finally:
            services.running.discard(task)
            if x.upload is not None:
                x.upload.close()
            self._record(x)
        if services.draining:
            response.force_close()
        return response

    async def _answer(self, x: Exchange, request: web.BaseRequest) -> web.StreamResponse:
        """The steps, in order."""
        services = self._services
        principal = self._admit(x, request)
        endpoint = _POSTS.get(request.path) if request.method == "POST" else None
        of_team, in_flight = services.of_team, services.metrics.in_flight
        of_team[x.team] += 1
        try:
            if endpoint is None:
                return await self._other_route(x, principal, request)
            x.endpoint = endpoint.name
            in_flight[endpoint.name] += 1
            ask = await receive(services, x, request, endpoint)
            x.stream = ask.stream
            call = self._decide(x, principal, endpoint, ask)
            async with Hold(services, x, call) as hold:
                try:
                    answered = await attempt(services, x, call, call.targets[0])
                except UpstreamFailure as failure:
                    answered = await others(services, x, call, hold, failure)
                ask.let_go()
                return await relay(services, x, call, hold, answered, request)
        finally:
            of_team[x.team] -= 1
            if endpoint is not None:
                in_flight[endpoint.name] -= 1

    def _admit(self, x: Exchange, request: web.BaseRequest) -> Principal:
        """Whose request it is. Raises what nobody's, and none for which there is no room, is answered with."""
        services, headers = self._services, request.headers
        _require_plain_framing(request, headers)
        if services.draining:
            raise Draining("The proxy is restarting. Retry.", headers={"Retry-After": "1"})
        principal = authenticate(x.policy, headers.get(AUTHORIZATION, ""), x.started_at)
        x.team, x.key_id = principal.team.name, principal.key.id
        # Too many requests are being served, in all or of one team: nobody waits in line.
        most = services.max_in_flight
        if len(services.running) > most or services.of_team[x.team] >= most * TEAM_SHARE:
            raise Overloaded("The proxy serves as many requests as it can. Retry.", headers={"Retry-After": "1"})
        return principal

    def _begin(self, request: web.BaseRequest) -> Exchange:
        services, headers = self._services, request.headers
        now, started = services.clock(), monotonic()
        policy = services.policies.policy
        limit_s, own_s = _in_time(policy.retry.deadline_s), patience_s(headers)
        x = Exchange(
            request_id(now, services.entropy()),
            now,
            started,
            policy,
            started + (limit_s if own_s is None or own_s > limit_s else own_s),
            is_retry(headers),
            _forwarded(headers.get(ACCEPT), headers.get(USER_AGENT)),
        )
        if "x-request-id" in headers:
            x.client_request_id = headers["x-request-id"][:CLIENT_ID_MAX_CHARS]
        if "x-oxyy-tag" in headers:
            x.tag = _text(headers["x-oxyy-tag"])[:TAG_MAX_CHARS]
        return x

    async def _other_route(self, x: Exchange, principal: Principal, request: web.BaseRequest) -> web.StreamResponse:
        """What is answered without the upstream: models, usage, and refusals of anything else."""
        path, method = request.path, request.method
        get = method == "GET"
        if (path == _MODELS_PATH or path.startswith(_MODELS_PATH + "/")) and get:
            x.endpoint = models.NAME
            described = await self._services.catalogue.described()
            if path == _MODELS_PATH:
                return _json(x, models.listing(x.policy, principal.team, ENDPOINTS, described))
            name = path[len(_MODELS_PATH) + 1 :]
            return _json(x, models.single(x.policy, principal.team, ENDPOINTS, described, name))
        if path.startswith(_JOBS_PATH) and get:
            x.endpoint = videos.ENDPOINT.name
            return await job_status(self._services, x, principal, path[len(_JOBS_PATH) :])
        if path == _USAGE_PATH and get:
            x.endpoint = "usage"
            limits = watching(x.policy, principal)
            return _json(x, team_usage(principal, await self._services.ledger.standings(limits, x.started_at)))
        raise _no_route(path, method)

    def _decide(self, x: Exchange, principal: Principal, endpoint: Endpoint, ask: Ask) -> Call:
        """Which models may answer, what the worst of each costs, and which limits watch."""
        requested, chosen, limits = self._route(x, principal, endpoint, ask.model)
        policy, parts = x.policy, x.policy.part_tokens
        x.model_requested = requested
        x.model_label = chosen[0].name
        targets = [ask.target(chosen[0], parts)]
        if len(chosen) > 1:
            for model in chosen[1:]:
                with suppress(InvalidValue):  # a fallback that cannot do what is asked for is skipped
                    targets.append(ask.target(model, parts))
        if monotonic() >= x.deadline:
            raise DeadlinePassed
        first = self._services.health.first(targets, policy)
        if first:
            self._services.metrics.failover(chosen[0].name, targets[first].model.name, "breaker")
        last = first + policy.retry.attempts
        return Call(requested, tuple(targets[first:last]), limits, principal, endpoint, ask)

    def _route(
        self, x: Exchange, principal: Principal, endpoint: Endpoint, model: str | None
    ) -> tuple[str, tuple[Model, ...], tuple[Limit, ...]]:
        """The name asked for, the chain and the limits: the same for a key and a model as long as a policy is in force,
        so found once. Only models that exist are kept."""
        policy = x.policy
        if policy is not self._policy:
            self._policy, self._routes = policy, {}
        asked = (x.team, x.key_id, endpoint.name, model)
        found = self._routes.get(asked)
        if found is None:
            x.model_requested = (model or "")[:MODEL_MAX_CHARS]  # until it is known to exist
            requested, chosen = chain(policy, principal, endpoint.name, endpoint.bases, model)
            found = (requested, chosen, watching(policy, principal))
            self._routes[asked] = found
        return found

    def _record(self, x: Exchange) -> None:
        """One record to the metrics and the log."""
        x.duration_s = monotonic() - x.started
        self._services.metrics.finished(x)
        self._services.log.finished(x)


def _in_time(limit_s: float) -> float:
    """A little less than a limit, since a wait may be ended late, and telling so takes a moment too."""
    return limit_s - LATE_S if limit_s > 2 * LATE_S else limit_s / 2


def _require_plain_framing(request: web.BaseRequest, headers: Mapping[str, str]) -> None:
    """Raises MalformedRequest for another HTTP than 1.0 and 1.1, and for a body whose end two parsers may see in
    different places (RFC 9112, section 6.1): aiohttp lets both pass."""
    version, coding = request.version, headers.get(TRANSFER_ENCODING)
    if version == HttpVersion11 and coding is None:
        return
    if version not in (HttpVersion10, HttpVersion11) or (
        coding is not None and (coding.lower() != "chunked" or version == HttpVersion10)
    ):
        raise MalformedRequest("Speak HTTP/1.1, and send the body with a Content-Length or plainly chunked.")


@lru_cache(maxsize=1024)
def _forwarded(accept: str | None, agent: str | None) -> str:
    """The client's headers that go upstream, as lines. The same for every request of most clients."""
    lines = "" if accept is None else f"Accept: {accept}\r\n"
    return lines if agent is None else f"{lines}User-Agent: {agent}\r\n"


def _text(header: str) -> str:
    """A header as text: bytes that are not UTF-8, which aiohttp keeps as surrogates, cannot be stored."""
    return header.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _no_route(path: str, method: str) -> ProxyError:
    if path in _POSTS:
        allow = "POST"
    elif path in (_MODELS_PATH, _USAGE_PATH) or path.startswith((_MODELS_PATH + "/", _JOBS_PATH)):
        allow = "GET"
    else:
        known = ", ".join([*_POSTS, _MODELS_PATH, _USAGE_PATH])
        return UnknownUrl(f"There is no {path[:100]!a} here. Known: {known}. The base_url ends in {PREFIX}.")
    return MethodNotAllowed(f"{method[:20]} is not allowed on {path[:100]}; use {allow}.", headers={"Allow": allow})


def _json(x: Exchange, value: object) -> web.StreamResponse:
    x.status = 200
    return WholeAnswer(200, f"{answer_lines(x)}Content-Type: application/json\r\n", orjson.dumps(value))


def _refusal(x: Exchange, error: ProxyError) -> web.StreamResponse:
    """An error as the client gets it: ours, or the upstream's own where every target gave it."""
    status, content_type, body = error.status, "application/json", orjson.dumps(error.payload())
    if isinstance(error, UpstreamStatus):
        status, content_type, body = error.upstream_status, error.content_type, error.body
    x.status = status
    x.error_code = error.code
    lines = f"{answer_lines(x)}{as_lines(error.headers)}Content-Type: {content_type}\r\n"
    response = WholeAnswer(status, lines, body)
    if isinstance(error, RequestTooLarge | UnsupportedEncoding | MalformedRequest | Overloaded | DeadlinePassed):
        response.force_close()  # the rest of the body is not wanted
    return response
