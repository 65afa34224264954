"""How every task handles a DynamoDB, or a queue, that throttles, fails, refuses or does not answer."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from boto3.dynamodb.types import TypeSerializer
from botocore.exceptions import ClientError
from pynamodb.exceptions import GetError, PutError, PynamoDBException, QueryError, ScanError, UpdateError

from callbacks.errors import ServiceUnavailable
from tests.sources import FUNCTIONS, timeout_of
from tests.unit.kit import PAID, Json, Load, Log, Service, context, operations

ERRORS: dict[str, type[PynamoDBException | ClientError]] = {
    "BatchGetItem": GetError,
    "GetItem": GetError,
    "PutItem": PutError,
    "Query": QueryError,
    "ReceiveMessage": ClientError,
    "Scan": ScanError,
    "UpdateItem": UpdateError,
}


TRANSIENT = [
    ("ProvisionedThroughputExceededException", 400),
    ("RequestLimitExceeded", 400),
    ("InternalServerError", 500),
    ("ServiceUnavailable", 503),
]
PERMANENT = ["ResourceNotFoundException", "ValidationException"]


def item(**attributes: Any) -> Json:
    return {name: TypeSerializer().serialize(value) for name, value in attributes.items()}


FAILURE = {
    "Item": item(
        requestId="8f7e6d5c",
        status="open",
        attempts=0,
        error="Timeout",
        event="{}",
        receivedAt="2020-01-01T10:00:00.000Z",
        occurredAt="2020-01-01T10:00:01.000Z",
        channel="BankApp",
        lane="healing",
        queue="BankApp#3#healing",
        queuedAt="2020-01-01T10:05:01.000Z",
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
    shard="BankApp#3",
    requestId="8f7e6d5c",
    receivedAt="2020-01-01T10:00:00.000Z",
    executionArn="arn",
    signature="skipped",
    undispatchedSince="2020-01-01T10:00:00.000Z",
)
PARKED = {
    "MessageId": "m",
    "ReceiptHandle": "h",
    "Body": json.dumps(
        {
            "report": {
                "channel": "BankApp",
                "functionName": "bankappcallback",
                "failure": {"SaveCallbackRecord": {"Error": "ServiceUnavailable", "Cause": "{}"}},
                "executionArn": "a",
                "executionName": "e",
                "startedAt": "2026-11-22T10:00:00Z",
                "occurredAt": "2026-11-22T10:00:01.000Z",
            },
            "event": {"requestId": "8f7e6d5c"},
        }
    ),
}
CONDITION_FAILED = {"__type": "ConditionalCheckFailedException", "Message": "no"}


@dataclass(frozen=True)
class Path:
    """The calls that a task makes in turn, each with its answer, when it is called with `event`.

    Each call is made `attempts` times before it fails. The first call is made `slow_attempts` times if none is answered
    in time, and they all end within `seconds`.
    """

    task: str
    event: Json
    calls: list[tuple[str, Json]]
    attempts: int = 2
    slow_attempts: int = 2
    seconds: float = 4

    def __str__(self) -> str:
        return f"{self.task}-{'-'.join(call for call, _ in self.calls)}"


@pytest.fixture
def events(callback: Json, failure: Json) -> Json:
    """The events of the callback workflow's tasks."""
    names = {"channel": "BankApp", "table": "table", "executionArn": "arn", "signature": "skipped"}
    save = {**names, "delivery": PAID, "callback": callback}
    return {"save_callback_record": save, "write_error_log": failure, "take_parked": {}}


def find(**selection: Any) -> Path:
    call = "GetItem" if "requestId" in selection else "Query"
    event: Json = {
        "channel": "BankApp",
        "selection": selection,
        "state": {},
        "startedAt": "2020-01-01T10:00:00.000Z",
    }
    return Path("find_failures", event, [(call, {})])


PATHS = [
    Path("save_callback_record", {}, [("PutItem", {}), ("GetItem", {})], seconds=1.8),
    # The task itself repeats a call, but only one that failed fast.
    Path("write_error_log", {}, [("UpdateItem", {})], slow_attempts=1, seconds=1),
    Path("write_error_log", {}, [("UpdateItem", CONDITION_FAILED), ("UpdateItem", {})], slow_attempts=1, seconds=1),
    Path(
        "take_parked",
        {},
        [("ReceiveMessage", {"Messages": [PARKED]}), ("UpdateItem", {})],
        attempts=1,
        slow_attempts=1,
    ),
    Path("report_suppressed", {"channel": "BankApp"}, [("Scan", {})]),
    Path("send_digest", {"channel": "BankApp"}, [("Query", {})]),
    Path("claim_failure", {"requestId": "8f7e6d5c", "isManual": False}, [("GetItem", FAILURE), ("UpdateItem", {})]),
    Path(
        "settle_failure",
        {"requestId": "8f7e6d5c", "attempt": 1, "lane": "healing", "run": {"Status": "TIMED_OUT"}},
        [("GetItem", FAILURE), ("UpdateItem", {})],
    ),
    Path(
        "collect_undispatched",
        # Of an order, because that is one query.
        {
            "channel": "BankApp",
            "functionName": "bankappcallback",
            "table": "table",
            "selection": {"orderId": "482500007436"},
        },
        [
            ("Query", {"Items": [RECORD], "Count": 1, "ScannedCount": 1}),
            ("BatchGetItem", {"Responses": {"payment3-callback-error-log-test": []}, "UnprocessedKeys": {}}),
            ("GetItem", {"Item": RECORD}),
            ("UpdateItem", {"Attributes": FAILURE["Item"]}),
            ("UpdateItem", {"Attributes": RECORD}),
        ],
    ),
    find(),
    find(requestId="8f7e6d5c"),
    find(orderId="482500007436"),
    find(since="2020-01-01T10:00:00Z"),
]
CALLS = [(path, number) for path in PATHS for number in range(len(path.calls))]

Run = Callable[[], object]


def in_time_of(task: str) -> Any:
    """Return the context of a function that has just been invoked, and whose time passes."""
    (timeout,) = {timeout_of(name) for name, function in FUNCTIONS.items() if function["Handler"] == f"{task}.handler"}
    ends_at = time.monotonic() + timeout
    return SimpleNamespace(get_remaining_time_in_millis=lambda: 1000 * (ends_at - time.monotonic()))


def run_until(
    path: Path,
    number: int,
    load: Load,
    service: Service,
    events: Json,
    context_of: Callable[[str], Any] = lambda _: context(),
) -> Run:
    """Return what runs the task; the calls before `number` are answered, the others as the test says."""
    task = load(path.task, AWS_ENDPOINT_URL=service.url)
    for _, answer in path.calls[:number]:
        service.answers_once(400 if "__type" in answer else 200, json.dumps(answer).encode())
    return lambda: task.handler(path.event or events[path.task], context_of(path.task))


# Every call is covered, each with one code; the first call meets all codes.
@pytest.mark.parametrize(
    ("path", "number", "code", "status"),
    [
        *((path, number, "ThrottlingException", 400) for path, number in CALLS),
        *((PATHS[0], 0, code, status) for code, status in TRANSIENT),
    ],
    ids=str,
)
def test_a_transient_error_is_service_unavailable_after_the_last_attempt(
    load: Load,
    service: Service,
    events: Json,
    pauses: list[float],
    log: Log,
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
    assert operations(service) == [name for name, _ in path.calls[:number]] + [call] * path.attempts
    assert len(pauses) == path.attempts - 1
    assert log() == []


@pytest.mark.parametrize(
    ("path", "number", "code"),
    [
        *((path, number, "AccessDeniedException") for path, number in CALLS),
        *((PATHS[0], 0, code) for code in PERMANENT),
    ],
    ids=str,
)
def test_a_permanent_error_keeps_its_name_and_is_not_retried(
    load: Load, service: Service, events: Json, path: Path, number: int, code: str
) -> None:
    run = run_until(path, number, load, service, events)
    service.refuses(code, 400)
    call = path.calls[number][0]
    with pytest.raises(ERRORS[call], match=code):
        run()
    assert operations(service) == [name for name, _ in path.calls[: number + 1]]


def late(runs: list[tuple[Path, Run]]) -> list[tuple[str, float]]:
    """Run all paths at once and return those that took too long to give up."""

    def measure(run: Run) -> float:
        started = time.monotonic()
        with pytest.raises(ServiceUnavailable):
            run()
        return time.monotonic() - started

    with ThreadPoolExecutor(len(runs)) as threads:
        seconds = list(threads.map(measure, [run for _, run in runs]))
    return [(str(path), took) for (path, _), took in zip(runs, seconds, strict=True) if took >= path.seconds]


def test_a_dynamodb_that_does_not_answer_is_given_up_in_time(
    load: Load, service: Service, events: Json, pauses: list[float]
) -> None:
    runs = [(path, run_until(path, 0, load, service, events, in_time_of)) for path in PATHS]
    service.refuses("AccessDeniedException", 400)
    for _, run in runs:
        # The first call makes the client.
        with pytest.raises((PynamoDBException, ClientError)):
            run()
    service.hangs()
    assert late(runs) == []
    assert len(service.requests) == sum(1 + path.slow_attempts for path in PATHS)
    assert len(pauses) == sum(path.slow_attempts - 1 for path in PATHS)


def test_a_dynamodb_that_cannot_be_reached_is_given_up_in_time(
    load: Load, service: Service, deaf: str, events: Json, pauses: list[float]
) -> None:
    service.url = deaf
    runs = [(path, run_until(path, 0, load, service, events, in_time_of)) for path in PATHS]
    # The first calls make the clients.
    late(runs)
    assert late(runs) == []
    assert len(pauses) == 2 * sum(path.slow_attempts - 1 for path in PATHS)
