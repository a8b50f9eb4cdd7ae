import pytest

from oxyy_proxy.simulator.errors import ApiError, of_status


def test_an_error_has_the_documented_shape():
    assert of_status(401).payload() == {
        "error": {"message": "Invalid API key provided", "type": "authentication_error", "code": "invalid_api_key"}
    }


@pytest.mark.parametrize(("status", "type_"), [(418, "invalid_request_error"), (502, "server_error")])
def test_a_status_that_is_not_documented_has_the_type_of_its_class(status, type_):
    assert of_status(status).type == type_


def test_a_code_of_its_own_wins():
    assert ApiError(400, "no", "invalid_json").code == "invalid_json"
