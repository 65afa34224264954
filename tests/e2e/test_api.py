"""API Gateway's own answers have the same shape as all others, except 413."""

import pytest

from tests.e2e.conftest import CALLBACK_PATH, Answer, Local


def assert_is_refusal(answer: Answer, status: int, error: str) -> None:
    expected = {"success": False, "error": error, "message": "Failed to process bank app callback"}
    assert (answer.status, answer.body) == (status, expected)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/"),
        ("POST", "/bankapp"),
        ("POST", CALLBACK_PATH + "/"),
        ("POST", "/bankapp//callback"),
        ("GET", CALLBACK_PATH),
        ("PUT", CALLBACK_PATH),
    ],
)
def test_an_unknown_path_or_method_is_not_found(local: Local, method: str, path: str) -> None:
    assert_is_refusal(local.request(method, path), 404, "Not found")


def test_the_api_has_one_stage(local: Local) -> None:
    apis = local.stack.client("apigateway")
    (api,) = apis.get_rest_apis()["items"]
    assert [stage["stageName"] for stage in apis.get_stages(restApiId=api["id"])["item"]] == ["local"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml"])
def test_another_content_type_is_refused(local: Local, content_type: str) -> None:
    call = '{"stateMachineArn": "arn:of:another", "input": "{}"}'
    assert_is_refusal(local.post(call, content_type), 415, "Unsupported Media Type")


def test_a_content_type_with_a_charset_is_accepted(local: Local) -> None:
    answer = local.post("{}", "application/json; charset=utf-8")
    assert (answer.status, "is missing" in answer.body["error"]) == (500, True)


def test_a_body_over_ten_megabytes_is_refused(local: Local) -> None:
    answer = local.post(b"x" * (10 * 1024 * 1024 + 1))
    assert (answer.status, answer.body) == (413, {"message": "Request Too Long"})


def test_bytes_that_are_not_utf_8_are_refused(local: Local) -> None:
    answer = local.post(b'{"orderId": "\xff\xfe"}')
    assert answer.status == 500
    assert "is missing" in answer.body["error"]
