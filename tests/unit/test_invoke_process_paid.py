import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from botocore.exceptions import ClientError

from callbacks.errors import ServiceUnavailable

EVENTS = Path(__file__).parents[2] / "events"
FUNCTION = "payment3-process-paid-wallet-order-internal-test"


def event(callback: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What the state passes on."""
    return {"function": FUNCTION, "callback": {**callback, **changes}}


@pytest.fixture
def task(load: Callable[..., ModuleType], service: Any) -> ModuleType:
    service.answers(202)
    return load("invoke_process_paid", AWS_ENDPOINT_URL=service.url)


@pytest.mark.parametrize("name", ["paid", "exact-amount", "unknown-fields", "text-of-all-kinds"])
def test_the_payload_is_the_body_byte_for_byte(
    task: ModuleType, service: Any, callback: dict[str, Any], name: str
) -> None:
    body = json.loads((EVENTS / f"{name}.json").read_text())["body"]
    assert task.handler(event(callback, body=body), None) == {"accepted": True}
    (request,) = service.requests
    assert request.body == body.encode()


def test_the_function_of_the_channel_is_invoked_asynchronously(
    task: ModuleType, service: Any, callback: dict[str, Any]
) -> None:
    task.handler(event(callback), None)
    (request,) = service.requests
    assert request.path == f"/2015-03-31/functions/{FUNCTION}/invocations"
    assert request.headers["X-Amz-Invocation-Type"] == "Event"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("TooManyRequestsException", 429),
        ("ThrottlingException", 400),
        ("ServiceException", 500),
        ("ServiceUnavailable", 503),
    ],
)
def test_an_error_of_lambda_that_passes_is_service_unavailable_and_left_to_the_state_to_retry(
    task: ModuleType, service: Any, callback: dict[str, Any], code: str, status: int
) -> None:
    service.refuses(code, status)
    with pytest.raises(ServiceUnavailable):
        task.handler(event(callback), None)
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("AccessDeniedException", 403),
        ("ResourceNotFoundException", 404),
        ("InvalidParameterValueException", 400),
        ("RequestTooLargeException", 413),
    ],
)
def test_an_error_of_lambda_that_stays_keeps_its_own_name(
    task: ModuleType, service: Any, callback: dict[str, Any], code: str, status: int
) -> None:
    service.refuses(code, status)
    with pytest.raises(ClientError, match=code):
        task.handler(event(callback), None)
    assert len(service.requests) == 1


def test_a_lambda_that_does_not_answer_is_asked_once_and_given_up_within_the_steps_time(
    task: ModuleType, service: Any, callback: dict[str, Any], within: Any
) -> None:
    service.hangs()
    with within(1.8), pytest.raises(ServiceUnavailable):
        task.handler(event(callback), None)
    assert len(service.requests) == 1


def test_a_lambda_that_cannot_be_reached_is_given_up_within_the_steps_time(
    load: Callable[..., ModuleType], deaf: str, callback: dict[str, Any], within: Any
) -> None:
    task = load("invoke_process_paid", AWS_ENDPOINT_URL=deaf)
    with within(1.8), pytest.raises(ServiceUnavailable):
        task.handler(event(callback), None)


def test_a_refused_connection_is_service_unavailable(
    load: Callable[..., ModuleType], nobody: str, callback: dict[str, Any]
) -> None:
    task = load("invoke_process_paid", AWS_ENDPOINT_URL=nobody)
    with pytest.raises(ServiceUnavailable):
        task.handler(event(callback), None)


def test_the_log_names_the_delivery_but_not_the_user(
    task: ModuleType, callback: dict[str, Any], log: Callable[[], list[dict[str, Any]]]
) -> None:
    task.handler(event(callback), None)
    (line,) = log()
    assert (
        line.items()
        >= {
            "message": "Process-paid invoked",
            "orderId": "482500007436",
            "paymentId": "pay_bankapp_123",
            "deliveryId": callback["deliveryId"],
        }.items()
    )
    assert callback["userId"] not in json.dumps(line)


def test_nothing_is_logged_as_invoked_that_was_not(
    task: ModuleType, service: Any, callback: dict[str, Any], log: Callable[[], list[dict[str, Any]]]
) -> None:
    service.refuses("AccessDeniedException", 403)
    with pytest.raises(ClientError):
        task.handler(event(callback), None)
    assert log() == []
