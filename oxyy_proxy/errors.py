"""Every error a client or an operator can meet, as one tree.

    ProxyError                      what a client is told: status, type, code, a sentence that says what to do
     ├─ AuthenticationFailed        401 invalid_api_key
     ├─ ModelNotAllowed             403 model_not_allowed
     ├─ ModelNotPriced              403 model_not_priced
     ├─ ModelNotFound               404 model_not_found
     ├─ UnknownUrl                  404 unknown_url
     ├─ MethodNotAllowed            405 method_not_allowed
     ├─ MalformedRequest            400 invalid_request   (the HTTP, or a form, could not be read)
     ├─ InvalidJson                 400 invalid_json
     ├─ InvalidValue                400 invalid_value
     ├─ RequestTooLarge             413 request_too_large
     ├─ UnsupportedEncoding         415 unsupported_encoding
     ├─ QuotaExceeded               429 insufficient_quota
     ├─ RateLimited                 429 rate_limit_exceeded
     ├─ JobNotFound                 404 job_not_found
     ├─ Overloaded                  503 overloaded
     ├─ Draining                    503 overloaded
     ├─ LedgerUnavailable           503 ledger_unavailable
     ├─ UpstreamUnavailable         503 upstream_unavailable   (nobody is asked: every breaker is open)
     ├─ DeadlinePassed              504 upstream_timeout       (nobody is asked: the request came too slowly)
     ├─ InternalError               500 internal_error
     └─ UpstreamFailure             an attempt that did not answer; knows whether it may have cost money
         ├─ UpstreamStatus          500 or 503 (or what `retry.on` names): handed on if it is the last one
         ├─ UpstreamAuth            503 upstream_auth
         ├─ UpstreamUnreachable     502 upstream_unreachable
         ├─ UpstreamErrorAnswer     502 upstream_bad_response  (200 whose content is an error: costs nothing)
         ├─ UpstreamReset           502 upstream_reset          ambiguous
         ├─ UpstreamBadResponse     502 upstream_bad_response   ambiguous
         └─ UpstreamTimeout         504 upstream_timeout        ambiguous

    StartupError                    the process cannot start: one line on stderr, exit 3

Statuses and codes are those of the table of errors in the README.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class ProxyError(Exception):
    """A refusal or failure as the client sees it.

    `status`, `type` and `code` are fixed per class; the message says what to do next. `param` names the field of
    the body at fault. `headers` go out with the answer.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers: Mapping[str, str] = headers or {}

    def payload(self) -> dict[str, dict[str, str | None]]:
        """The body: `{"error": {"message", "type", "param", "code"}}`."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class AuthenticationFailed(ProxyError):
    status, type, code = 401, "authentication_error", "invalid_api_key"

    def __init__(self) -> None:
        super().__init__(
            "No valid team key. Send 'Authorization: Bearer <team key>' with a key that your platform team issued; "
            "if it used to work it has expired or was revoked: ask them for a new one."
        )


class ModelNotAllowed(ProxyError):
    status, type, code = 403, "permission_error", "model_not_allowed"


class ModelNotPriced(ProxyError):
    status, type, code = 403, "permission_error", "model_not_priced"


class ModelNotFound(ProxyError):
    status, type, code = 404, "invalid_request_error", "model_not_found"


class UnknownUrl(ProxyError):
    status, type, code = 404, "invalid_request_error", "unknown_url"


class MethodNotAllowed(ProxyError):
    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class MalformedRequest(ProxyError):
    status, type, code = 400, "invalid_request_error", "invalid_request"


class InvalidJson(ProxyError):
    status, type, code = 400, "invalid_request_error", "invalid_json"


class InvalidValue(ProxyError):
    status, type, code = 400, "invalid_request_error", "invalid_value"


class RequestTooLarge(ProxyError):
    status, type, code = 413, "invalid_request_error", "request_too_large"


class UnsupportedEncoding(ProxyError):
    status, type, code = 415, "invalid_request_error", "unsupported_encoding"


class QuotaExceeded(ProxyError):
    """A budget for the day, the month …: trying again before the window ends is pointless."""

    status, type, code = 429, "insufficient_quota", "insufficient_quota"


class RateLimited(ProxyError):
    """A limit per minute or hour, or on concurrency: trying again soon is right."""

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class Overloaded(ProxyError):
    """More than the proxy can hold: in a moment there may be room."""

    status, type, code = 503, "server_error", "overloaded"


class JobNotFound(ProxyError):
    """Unknown, or another team's: the same answer."""

    status, type, code = 404, "invalid_request_error", "job_not_found"


class Draining(ProxyError):
    status, type, code = 503, "server_error", "overloaded"


class LedgerUnavailable(ProxyError):
    status, type, code = 503, "server_error", "ledger_unavailable"


class UpstreamUnavailable(ProxyError):
    """No model may be called: nothing is sent."""

    status, type, code = 503, "server_error", "upstream_unavailable"


class DeadlinePassed(ProxyError):
    """The request took so long to come that no time is left to answer it: nothing is sent."""

    status, type, code = 504, "server_error", "upstream_timeout"

    def __init__(
        self,
        message: str = "The time for this request was over before all of it was there. Send it faster.",
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, param=param, headers=headers)


class InternalError(ProxyError):
    pass


class UpstreamFailure(ProxyError):
    """An attempt that did not answer.

    `reason` is from a closed set and labels metrics. `ambiguous` means that the upstream may have done, and may
    bill, the work. `retryable` means that another target may be tried.
    """

    status, type, code = 502, "server_error", "upstream_unreachable"
    reason: ClassVar[str] = "unreachable"
    ambiguous: bool = False
    retryable: ClassVar[bool] = True


class UpstreamStatus(UpstreamFailure):
    """The upstream answered with an error status that the policy moves on from; if it is the last target's, the
    client gets this status and this body."""

    reason = "status"

    def __init__(
        self,
        upstream_status: int,
        content_type: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        ambiguous: bool = False,
    ) -> None:
        super().__init__(f"The upstream answered {upstream_status}.", headers=headers)
        self.ambiguous = ambiguous
        self.code = f"upstream_{upstream_status}"  # on record only: the client gets the body
        self.upstream_status = upstream_status
        self.content_type = content_type
        self.body = body


class UpstreamAuth(UpstreamFailure):
    status, code, reason, retryable = 503, "upstream_auth", "auth", False

    @classmethod
    def refused(cls) -> UpstreamAuth:
        """As the client gets it: another try is no use."""
        return cls(
            "The upstream refused the organisation's key. Retrying is no use; tell your platform team.",
            headers={"x-should-retry": "false"},
        )


class UpstreamUnreachable(UpstreamFailure):
    pass


class UpstreamErrorAnswer(UpstreamFailure):
    code, reason = "upstream_bad_response", "error_event"


class UpstreamReset(UpstreamFailure):
    code, reason, ambiguous = "upstream_reset", "reset", True


class UpstreamBadResponse(UpstreamFailure):
    code, reason, ambiguous = "upstream_bad_response", "bad_response", True


class UpstreamTimeout(UpstreamFailure):
    status, code, reason, ambiguous = 504, "upstream_timeout", "timeout", True


class StartupError(Exception):
    """The process cannot start, or a command cannot do its work; the message is the one line that is shown."""
