"""The error tree is the one that its docstring draws, with the statuses, types and codes that clients rely on."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from oxyy_proxy import errors
from oxyy_proxy.errors import AuthenticationFailed, InvalidValue, ProxyError, UpstreamFailure, UpstreamStatus

TYPES = {
    "AuthenticationFailed": "authentication_error",
    "ModelNotAllowed": "permission_error",
    "ModelNotPriced": "permission_error",
    "QuotaExceeded": "insufficient_quota",
    "RateLimited": "rate_limit_error",
}
"""Of the others, 4xx are invalid_request_error and 5xx server_error."""

LINE = re.compile(r"^ +[├└]─ (?P<name>\w+) +(?P<status>\d{3}) (?P<code>[a-z_]+)\b(?P<rest>.*)$", re.MULTILINE)
DRAWN = {line["name"]: line for line in LINE.finditer(errors.__doc__ or "")}


def below(cls: type[ProxyError]) -> Iterator[type[ProxyError]]:
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from below(child)


CLASSES = list(below(ProxyError))
WITH_CODE = [cls for cls in CLASSES if cls not in (UpstreamFailure, UpstreamStatus)]


def test_every_error_is_drawn_and_every_drawing_is_an_error() -> None:
    assert len(CLASSES) > 20
    assert DRAWN.keys() - {"UpstreamStatus"} == {cls.__name__ for cls in WITH_CODE}


@pytest.mark.parametrize("cls", WITH_CODE, ids=lambda cls: cls.__name__)
def test_an_error_has_the_status_type_and_code_that_is_drawn(cls: type[ProxyError]) -> None:
    line = DRAWN[cls.__name__]
    expected_type = TYPES.get(cls.__name__, "server_error" if line["status"] >= "500" else "invalid_request_error")
    assert (str(cls.status), cls.code, cls.type) == (line["status"], line["code"], expected_type)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_stands_where_it_is_drawn(cls: type[ProxyError]) -> None:
    found = re.search(rf"^( +)[├└]─ {cls.__name__} ", errors.__doc__ or "", re.MULTILINE)
    assert found
    assert cls.__bases__ == ((UpstreamFailure if len(found[1]) > 5 else ProxyError),)


UPSTREAM = [cls for cls in CLASSES if issubclass(cls, UpstreamFailure) and cls is not UpstreamFailure]


@pytest.mark.parametrize("cls", UPSTREAM, ids=lambda cls: cls.__name__)
def test_what_may_have_cost_money_is_drawn_as_ambiguous(cls: type[UpstreamFailure]) -> None:
    drawn = DRAWN.get(cls.__name__)
    assert cls.ambiguous is bool(drawn and drawn["rest"].strip() == "ambiguous")


def test_another_target_may_be_tried_unless_our_key_is_refused() -> None:
    assert [cls.__name__ for cls in UPSTREAM if not cls.retryable] == ["UpstreamAuth"]


def test_each_upstream_failure_has_a_reason_of_its_own() -> None:
    reasons = [cls.reason for cls in UPSTREAM]
    assert len(set(reasons)) == len(reasons)
    assert set(reasons) == {"status", "auth", "unreachable", "error_event", "reset", "bad_response", "timeout"}


@pytest.mark.parametrize("cls", [cls for cls in WITH_CODE if cls is not AuthenticationFailed], ids=lambda c: c.__name__)
def test_the_payload_has_openais_shape(cls: type[ProxyError]) -> None:
    error = cls("Do this.", param="n", headers={"Retry-After": "1"})
    assert error.payload() == {"error": {"message": "Do this.", "type": cls.type, "param": "n", "code": cls.code}}
    assert error.headers == {"Retry-After": "1"}
    assert str(error) == "Do this."
    assert cls("x").param is None
    assert cls("x").headers == {}


def test_a_wrong_key_is_one_answer_whatever_was_wrong_with_it() -> None:
    payload = AuthenticationFailed().payload()["error"]
    assert payload == AuthenticationFailed().payload()["error"]
    assert payload["code"] == "invalid_api_key"
    assert "Authorization: Bearer" in (payload["message"] or "")


def test_an_upstream_status_keeps_what_the_client_will_get() -> None:
    error = UpstreamStatus(503, "text/html", b"<h1>", {"Retry-After": "5"})
    assert (error.upstream_status, error.content_type, error.body) == (503, "text/html", b"<h1>")
    assert (error.code, error.reason, error.headers) == ("upstream_503", "status", {"Retry-After": "5"})
    assert not error.ambiguous
    assert UpstreamStatus.code == UpstreamFailure.code  # the code of one is not the code of all


def test_a_refusal_is_caught_as_what_it_is() -> None:
    with pytest.raises(ProxyError, match="must be"):
        raise InvalidValue("'n' must be 1.", param="n")
    assert not issubclass(errors.StartupError, ProxyError)
