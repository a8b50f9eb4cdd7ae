"""The refusals of the documented API, and of the simulator's control routes."""

from __future__ import annotations

from collections.abc import Mapping

DOCUMENTED: Mapping[int, tuple[str, str, str]] = {
    400: ("invalid_request_error", "invalid_value", "The request is not valid"),
    401: ("authentication_error", "invalid_api_key", "Invalid API key provided"),
    403: ("permission_error", "insufficient_permissions", "Insufficient permissions"),
    404: ("invalid_request_error", "model_not_found", "Model not found"),
    429: ("rate_limit_error", "rate_limit_exceeded", "Rate limit exceeded"),
    500: ("server_error", "internal_error", "Internal server error"),
    503: ("server_error", "model_unavailable", "Model temporarily unavailable"),
}
"""Status -> (type, code, message), from the documentation's table of error codes."""


class ApiError(Exception):
    """A request the API refuses: `status`, and the body `{"error": {"message", "type", "code"}}`. Costs nothing."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type, default_code, _ = _documented(status)
        self.code = code or default_code

    def payload(self) -> dict[str, dict[str, str]]:
        """The JSON body of the answer."""
        return {"error": {"message": self.message, "type": self.type, "code": self.code}}


def of_status(status: int) -> ApiError:
    """What the API says with this status, in the documentation's words."""
    return ApiError(status, _documented(status)[2])


def _documented(status: int) -> tuple[str, str, str]:
    default = DOCUMENTED[500] if status >= 500 else DOCUMENTED[400]
    return DOCUMENTED.get(status, default)
