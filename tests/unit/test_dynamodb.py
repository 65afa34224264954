"""What the tasks make of a DynamoDB that throttles, fails, refuses, or does not answer: the same everywhere."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from boto3.dynamodb.types import TypeSerializer
from pynamodb.exceptions import GetError, PutError, PynamoDBException, QueryError, UpdateError

from callbacks.errors import ServiceUnavailable

ERRORS: dict[str, type[PynamoDBException]] = {
    "GetItem": GetError,
    "PutItem": PutError,
    "Query": QueryError,
    "UpdateItem": UpdateError,
}
PASSING = [
    ("ProvisionedThroughputExceededException", 400),
    ("RequestLimitExceeded", 400),
    ("ThrottlingException", 400),
    ("InternalServerError", 500),
    ("ServiceUnavailable", 503),
]
STAYING = ["AccessDeniedException", "ResourceNotFoundException", "ValidationException"]


def item(**attributes: Any) -> dict[str, Any]:
    return {name: TypeSerializer().serialize(value) for name, value in attributes.items()}


FAILURE = {
    "Item": item(
        requestId="8f7e6d5c",
        status="open",
        attempts=0,
        error="Timeout",
        event="{}",
        receivedAt="2020-01-01T10:00:00.000Z",
        nextAttemptAt="2020-01-01T10:05:01.000Z",
    )
}
RECORD = item(
    orderId="482500007436",
    deliveryId="2020-01-01T10:00:00.000Z#8f7e6d5c",
    paymentId="pay_bankapp_123",
    userId="somebody",
    success=True,
    extra="{}",
    body="{}",
    channel="BankApp",
    requestId="8f7e6d5c",
    receivedAt="2020-01-01T10:00:00.000Z",
    executionArn="arn",
    signature="off",
    undispatchedSince="2020-01-01T10:00:00.000Z",
)
CONDITION_FAILED = {"__type": "ConditionalCheckFailedException", "Message": "no"}
CHANNEL = {"channel": "BankApp", "functionName": "bankappcallback"}


@dataclass(frozen=True)
class Path:
    """The calls that a task makes one after the other, each with DynamoDB's answer; `event` is what it is called with.

    It has `seconds` for the first of them, all attempts together.
    """

    task: str
    event: dict[str, Any]
    calls: list[tuple[str, dict[str, Any]]]
    seconds: float = 4

    def __str__(self) -> str:
        return f"{self.task}-{'-'.join(call for call, _ in self.calls)}"


@pytest.fixture
def events(callback: dict[str, Any], failure: dict[str, Any]) -> dict[str, Any]:
    """What the callback workflow's tasks are called with."""
    save = {"channel": "BankApp", "table": "table", "executionArn": "arn", "callback": callback, "signature": "off"}
    return {"save_callback_record": save, "write_error_log": failure}


def find(**selection: Any) -> Path:
    call = "GetItem" if "requestId" in selection else "Query"
    return Path(
        "find_failures", {**CHANNEL, "selection": selection, "collected": [], "page": 0, "next": None}, [(call, {})]
    )


PATHS = [
    Path("save_callback_record", {}, [("PutItem", {})], seconds=1.8),
    Path("write_error_log", {}, [("UpdateItem", {})], seconds=1.8),
    Path("write_error_log", {}, [("UpdateItem", CONDITION_FAILED), ("UpdateItem", {})], seconds=1.8),
    Path("claim_failure", {"requestId": "8f7e6d5c", "isManual": False}, [("GetItem", FAILURE), ("UpdateItem", {})]),
    Path(
        "settle_failure",
        {"requestId": "8f7e6d5c", "attempt": 1, "run": {"Status": "TIMED_OUT"}},
        [("GetItem", FAILURE), ("UpdateItem", {})],
    ),
    Path(
        "collect_undispatched",
        {**CHANNEL, "table": "table", "selection": {}},
        [
            ("Query", {"Items": [RECORD], "Count": 1, "ScannedCount": 1}),
            ("GetItem", {"Item": RECORD}),
            ("PutItem", {}),
            ("UpdateItem", {"Attributes": RECORD}),
        ],
    ),
    find(),
    find(requestId="8f7e6d5c"),
    find(orderId="482500007436"),
    find(since="2020-01-01T10:00:00Z"),
]
CALLS = [(path, number) for path in PATHS for number in range(len(path.calls))]


def run_until(
    path: Path, number: int, load: Callable[..., ModuleType], service: Any, events: dict[str, Any]
) -> Callable[[], object]:
    """Return what runs the task with all calls answered but the one of that number, and those that follow it."""
    task = load(path.task, AWS_ENDPOINT_URL=service.url)
    for _, answer in path.calls[:number]:
        service.first.append((400 if "__type" in answer else 200, json.dumps(answer).encode(), {}))
    return lambda: task.handler(path.event or events[path.task], None)


def operations(service: Any) -> list[str]:
    return [request.headers["X-Amz-Target"].rpartition(".")[2] for request in service.requests]


@pytest.mark.parametrize(("code", "status"), PASSING)
@pytest.mark.parametrize(("path", "number"), CALLS, ids=str)
def test_an_error_that_passes_is_tried_again_once_and_then_service_unavailable(
    load: Callable[..., ModuleType],
    service: Any,
    events: dict[str, Any],
    pauses: list[float],
    log: Callable[[], list[Any]],
    path: Path,
    number: int,
    code: str,
    status: int,
) -> None:
    run = run_until(path, number, load, service, events)
    service.refuses(code, status)
    with pytest.raises(ServiceUnavailable, match=code):
        run()
    call = path.calls[number][0]
    assert operations(service) == [name for name, _ in path.calls[:number]] + [call, call]
    assert len(pauses) == 1
    assert log() == []


@pytest.mark.parametrize("code", STAYING)
@pytest.mark.parametrize(("path", "number"), CALLS, ids=str)
def test_an_error_that_stays_keeps_its_own_name(
    load: Callable[..., ModuleType], service: Any, events: dict[str, Any], path: Path, number: int, code: str
) -> None:
    run = run_until(path, number, load, service, events)
    service.refuses(code, 400)
    call = path.calls[number][0]
    with pytest.raises(ERRORS[call], match=code):
        run()
    assert operations(service) == [name for name, _ in path.calls[: number + 1]]


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_a_dynamodb_that_does_not_answer_is_given_up_in_time(
    load: Callable[..., ModuleType], service: Any, events: dict[str, Any], pauses: list[float], within: Any, path: Path
) -> None:
    run = run_until(path, 0, load, service, events)
    # The first request makes the client, which takes as long as the machine is busy.
    service.refuses_once("AccessDeniedException", 400)
    with pytest.raises(PynamoDBException):
        run()
    service.hangs()
    with within(path.seconds), pytest.raises(ServiceUnavailable):
        run()
    assert len(service.requests) == 3
    assert len(pauses) == 1


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_a_dynamodb_that_cannot_be_reached_is_given_up_in_time(
    load: Callable[..., ModuleType],
    service: Any,
    deaf: str,
    events: dict[str, Any],
    pauses: list[float],
    within: Any,
    path: Path,
) -> None:
    service.url = deaf
    run = run_until(path, 0, load, service, events)
    # As above.
    with pytest.raises(ServiceUnavailable):
        run()
    with within(path.seconds), pytest.raises(ServiceUnavailable):
        run()
    assert len(pauses) == 2
