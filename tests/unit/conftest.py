"""What the unit tests share: the environment, the tables of template.yaml, and AWS behind a local socket."""

import importlib
import io
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore import endpoint
from botocore.loaders import create_loader
from hypothesis import settings
from moto import mock_aws
from pynamodb.models import Model

from callbacks import transient
from callbacks.queues import Lane, queue_of
from local.intrinsics import parameter_value, resolved
from tests.sources import RESOURCES, TABLES, TEMPLATE, table
from tests.unit.kit import (
    PAID,
    BeforeCall,
    Client,
    Json,
    Later,
    Load,
    Log,
    Put,
    Service,
    ServiceServer,
    Table,
    TableOf,
    Task,
    Within,
)

USER_ID = "b5f392f7-6d89-433c-b24f-bf6a772cab1a"

# The same examples on every machine, so that a failure in CI can be reproduced.
settings.register_profile("unit", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("unit")


@pytest.fixture(scope="session", autouse=True)
def one_loader() -> Iterator[None]:
    """Let all botocore sessions share what they read from disk: 50 of the 60 ms that a client costs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", cache(create_loader))
        yield


def isolate(patch: pytest.MonkeyPatch) -> None:
    """Keep the machine's own AWS account out of reach, and set what the tasks read."""
    for name in (
        "AWS_PROFILE",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_DYNAMODB",
        "AWS_ENDPOINT_URL_LAMBDA",
        "AWS_ENDPOINT_URL_SES",
        "AWS_REGION",
        "AWS_SESSION_TOKEN",
        "SENTRY_DSN",
    ):
        patch.delenv(name, raising=False)
    for name, value in {
        "AWS_DEFAULT_REGION": "ap-southeast-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
        "ENVIRONMENT": "test",
        "ERROR_LOG_TABLE": "payment3-callback-error-log-test",
        "REDRIVE_DELAY_MINUTES": "5",
        "REDRIVE_ATTEMPTS": "8",
        "UNCONFIRMED_ATTEMPTS": "3",
        "REFUSAL_RETENTION_DAYS": "90",
        "RECORD_RETENTION_DAYS": "0",
        "HEALING_MINUTES": "5",
        "HEALING_CONCURRENCY": "60",
        "DISPATCH_AGE_MINUTES": "2",
        "PARKED_QUEUE_URL": "https://sqs.ap-southeast-1.amazonaws.com/123456789012/payment3-parked-test",
        "LEDGER_TABLE": "payment3-payment-ledger-test",
        "MAX_DISPATCH_REPEATS": "1",
        "ALERT_TABLE": "payment3-callback-alert-test",
        "ALERT_WINDOW_MINUTES": "15",
        "EMAIL_FROM": "alerts@example.com",
        "EMAIL_TO": "oncall@example.com",
        "CHANNEL": "BankApp",
        "FUNCTION_NAME": "bankappcallback",
        "RECORD_TABLE": "records",
        "SENTRY_FUNCTION": "payment3-ReportToSentry-test",
        "EMAIL_FUNCTION": "payment3-SendErrorEmail-test",
    }.items():
        patch.setenv(name, value)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(monkeypatch)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Import a task as a cold start does: `load("write_error_log", ERROR_LOG_TABLE="…")`."""
    package = importlib.import_module("callbacks")
    clients, tables = (importlib.import_module(f"callbacks.{name}") for name in ("clients", "tables"))
    # Like a task, they read the environment, or remember something, from their import on.
    shared = ("windows", "alerts", "emails", "sentry", "bank", "bank_secret", "items", "ledger", "pace", "redrives")
    for name in shared:
        importlib.import_module(f"callbacks.{name}")

    def forget_clients() -> None:
        # A client keeps its endpoint, and a bound table its client.
        clients.connect.cache_clear()
        tables.bind.cache_clear()

    def imported(task: str, **variables: str) -> Task:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
            if name.startswith("AWS_ENDPOINT_URL"):
                forget_clients()
        for name in shared:
            monkeypatch.delitem(sys.modules, f"callbacks.{name}", raising=False)
            monkeypatch.delattr(package, name, raising=False)
        monkeypatch.delitem(sys.modules, task, raising=False)
        return importlib.import_module(task)

    yield imported
    if any(name.startswith("AWS_ENDPOINT_URL") for name in os.environ):
        forget_clients()


@pytest.fixture
def log() -> Iterator[Log]:
    """The lines that the tasks have logged."""
    (handler,) = importlib.import_module("callbacks.telemetry").logger.handlers
    stream = io.StringIO()
    before = handler.setStream(stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    handler.setStream(before)


@pytest.fixture(scope="session")
def template() -> Json:
    """template.yaml, with its tags as JSON."""
    return TEMPLATE


NAMES = {
    "AWS::Partition": "aws",
    "AWS::Region": "ap-southeast-1",
    "AWS::AccountId": "123456789012",
    "Branch": "test",
    "FailureMessage": "Failed to process bank app callback",
    "CallbackApiRole.Arn": "arn:aws:iam::123456789012:role/callback-api",
    "BankAppCallback": "arn:aws:states:ap-southeast-1:123456789012:stateMachine:payment3-bankapp-callback-test",
}


@pytest.fixture(scope="session")
def api_with() -> Callable[..., Json]:
    """The API's OpenAPI document as CloudFormation gives it to API Gateway: `api_with(AllowedSourceIps="…")`."""
    body = RESOURCES["CallbackApi"]["Properties"]["DefinitionBody"]

    def resolve(**parameters: str) -> Json:
        declared = TEMPLATE["Parameters"].items()
        values = {name: parameter_value(parameter, parameters.get(name)) for name, parameter in declared}
        document: Json = resolved(body, {**values, **NAMES}, TEMPLATE["Conditions"])
        return document

    return resolve


@pytest.fixture(scope="session")
def api(api_with: Callable[..., Json]) -> Json:
    """The API's OpenAPI document with the default of every parameter."""
    return api_with()


@pytest.fixture(scope="session")
def clients() -> tuple[Client, Any]:
    """DynamoDB as boto3's client and as its resource; made once, they work under every mock."""
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch)
        session = boto3.Session()
        return session.client("dynamodb"), session.resource("dynamodb")


@pytest.fixture
def dynamodb(clients: tuple[Client, Any]) -> Iterator[Client]:
    """A DynamoDB client in an empty account."""
    with mock_aws():
        yield clients[0]


@pytest.fixture
def tables(dynamodb: Client) -> dict[str, str]:
    """The tables of the template, empty: their names by logical id."""
    names = {}
    for logical_id in TABLES:
        properties = table(logical_id)
        dynamodb.create_table(**properties)
        names[logical_id] = properties["TableName"]
    return names


@pytest.fixture
def table_of(tables: dict[str, str], clients: tuple[Client, Any]) -> TableOf:
    return lambda logical_id: clients[1].Table(tables[logical_id])


@pytest.fixture
def records(table_of: TableOf) -> Table:
    return table_of("WalletCallbackRecordTable")


@pytest.fixture
def error_log(table_of: TableOf) -> Table:
    return table_of("CallbackErrorLogTable")


@pytest.fixture
def failed(error_log: Table) -> Put:
    """Put a failed delivery into the error log, long due; None leaves an attribute out.

    `waits_in` is the lane of its queue, None if it is resolved.
    """

    def put(waits_in: Lane | None = Lane.HEALING, **changes: Any) -> Json:
        item: Json = {
            "requestId": "8f7e6d5c",
            "functionName": "bankappcallback",
            "occurredAt": "2020-01-01T10:00:01.000Z",
            "receivedAt": "2020-01-01T10:00:00.000Z",
            "channel": "BankApp",
            "executionArn": "arn",
            "step": "InvokeProcessPaid",
            "error": "ServiceUnavailable",
            "cause": "Lambda is busy",
            "orderId": "482500007436",
            "chargeId": "pay_bankapp_123",
            "event": json.dumps({"body": "{}", "sourceIp": "203.0.113.7"}),
            "status": "open",
            "attempts": 0,
            "lane": "healing",
            "queuedAt": "2020-01-01T10:05:01.000Z" if waits_in else None,
            **changes,
        }
        if waits_in:
            item = {"queue": queue_of(item["channel"], waits_in, item["requestId"]), **item}
        item = {name: value for name, value in item.items() if value is not None}
        error_log.put_item(Item=item)
        return item

    return put


@pytest.fixture
def before_call() -> Iterator[BeforeCall]:
    """Act once, just before a table's next call of an operation is sent."""
    waiting: list[Callable[..., None]] = []

    def register(model: type[Model], operation: str, action: Callable[[], object]) -> None:
        events = model._get_connection().connection.client.meta.events
        table_name = json.dumps(model.Meta.table_name).encode()

        def once(request: Any, **_: object) -> None:
            # Other tables share the client.
            if table_name not in request.body:
                return
            events.unregister(f"before-send.dynamodb.{operation}", once)
            waiting.remove(once)
            action()

        events.register_first(f"before-send.dynamodb.{operation}", once)
        waiting.append(once)

    yield register
    assert waiting == []


@pytest.fixture(scope="session")
def server() -> Iterator[ServiceServer]:
    server = ServiceServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def service(server: ServiceServer) -> Iterator[Service]:
    """An HTTP service on 127.0.0.1 that has received nothing yet, and answers 200."""
    service = server.start_over()
    yield service
    service.released.set()


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a port that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def deaf() -> Iterator[str]:
    """The URL of a port whose queue is full: a connection neither succeeds nor fails."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for queued in (first, second):
            queued.setblocking(False)
            queued.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses before a call is repeated, by an AWS client or by a task; they are not waited for."""
    made: list[float] = []
    for module in (endpoint, transient):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=made.append))
    return made


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """Let so many seconds pass for everything kept in memory."""
    monotonic, passed = time.monotonic, 0.0

    def wait(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    monkeypatch.setattr("time.monotonic", lambda: monotonic() + passed)
    return wait


@pytest.fixture
def callback() -> Json:
    """What ValidateCallback returns for a paid callback."""
    return {
        "orderId": "482500007436",
        "paymentId": "pay_bankapp_123",
        "userId": USER_ID,
        "success": True,
        "amount": "2339.0",
        "requestId": "8f7e6d5c",
        "receivedAt": "2026-11-22T10:00:00.000Z",
        "deliveryId": "2026-11-22T10:00:00.000Z#8f7e6d5c",
        "decision": None,
    }


@pytest.fixture
def failure() -> Json:
    """What ReportFailure passes to each report when a paid callback could not be recorded."""
    return {
        "report": {
            "channel": "BankApp",
            "functionName": "bankappcallback",
            "failure": {
                "SaveCallbackRecord": {
                    "Error": "ServiceUnavailable",
                    "Cause": json.dumps(
                        {
                            "errorMessage": "DynamoDB is <busy>",
                            "errorType": "ServiceUnavailable",
                            "stackTrace": ["  File save_callback_record.py"],
                        }
                    ),
                }
            },
            "executionArn": f"{NAMES['BankAppCallback'].replace(':stateMachine:', ':express:')}:8f7e6d5c:1",
            "executionName": "8f7e6d5c",
            "startedAt": "2026-11-22T10:00:00.100Z",
            "occurredAt": "2026-11-22T10:00:01.000Z",
        },
        "event": PAID | {"headers": {"user-agent": "BankGateway/2.1"}},
    }


@contextmanager
def _measured(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


@pytest.fixture
def within() -> Within:
    """Assert that a `with` block takes less than so many seconds."""
    return _measured
