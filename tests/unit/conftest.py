"""What the unit tests share: the environment, the tables as template.yaml has them, and AWS at the end of a socket."""

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
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore import endpoint
from hypothesis import settings
from moto import mock_aws
from pynamodb.models import Model

from local.intrinsics import parameter_value, resolved
from local.stack import ROOT
from tests.sources import RESOURCES, TABLES, TEMPLATE, table

USER_ID = "b5f392f7-6d89-433c-b24f-bf6a772cab1a"

# The same examples on every machine: a run that fails in CI fails on a desk, too.
settings.register_profile("unit", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("unit")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own AWS account is within reach."""
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
        monkeypatch.delenv(name, raising=False)
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
        "DISPATCH_AGE_MINUTES": "2",
        "IDEMPOTENCY_TABLE": "payment3-payment-idempotency-test",
        "IDEMPOTENCY_DAYS": "35",
        "ALERT_TABLE": "payment3-callback-alert-test",
        "ALERT_WINDOW_MINUTES": "15",
        "EMAIL_FROM": "alerts@example.com",
        "EMAIL_TO": "oncall@example.com",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Import a task anew, as a cold start does: `load("write_error_log", ERROR_LOG_TABLE="…")`."""
    package = importlib.import_module("callbacks")
    bind = importlib.import_module("callbacks.tables").bind
    # They read the environment when they are imported, as a task does.
    shared = ("alerts", "redrives", "bank_secret", "items")
    for name in shared:
        importlib.import_module(f"callbacks.{name}")

    def imported(task: str, **variables: str) -> ModuleType:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
            if name == "AWS_ENDPOINT_URL":
                bind.cache_clear()
        for name in shared:
            monkeypatch.delitem(sys.modules, f"callbacks.{name}", raising=False)
            monkeypatch.delattr(package, name, raising=False)
        monkeypatch.delitem(sys.modules, task, raising=False)
        return importlib.import_module(task)

    yield imported
    # A table once bound keeps its client, and with it the endpoint.
    if "AWS_ENDPOINT_URL" in os.environ:
        bind.cache_clear()


@pytest.fixture
def log() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The lines that the tasks have logged."""
    (handler,) = importlib.import_module("callbacks.telemetry").logger.handlers
    stream = io.StringIO()
    before = handler.setStream(stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    handler.setStream(before)


@pytest.fixture(scope="session")
def template() -> dict[str, Any]:
    """template.yaml, its tags as JSON."""
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
def api_with() -> Callable[..., dict[str, Any]]:
    """The API's OpenAPI document, as CloudFormation hands it to API Gateway: `api_with(AllowedSourceIps="…")`."""
    body = RESOURCES["CallbackApi"]["Properties"]["DefinitionBody"]

    def resolve(**parameters: str) -> dict[str, Any]:
        declared = TEMPLATE["Parameters"].items()
        values = {name: parameter_value(parameter, parameters.get(name)) for name, parameter in declared}
        return resolved(body, {**values, **NAMES}, TEMPLATE["Conditions"])

    return resolve


@pytest.fixture(scope="session")
def api(api_with: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """The API's OpenAPI document where every parameter has its default."""
    return api_with()


@pytest.fixture
def tables() -> Iterator[dict[str, str]]:
    """The template's tables in an empty account: the name by the logical id."""
    with mock_aws():
        names = {}
        for logical_id in TABLES:
            properties = table(logical_id)
            boto3.client("dynamodb").create_table(**properties)
            names[logical_id] = properties["TableName"]
        yield names


@pytest.fixture
def error_log(tables: dict[str, str]) -> Any:
    """The error log, as boto3 has tables."""
    return boto3.resource("dynamodb").Table(tables["CallbackErrorLogTable"])


@pytest.fixture
def failed(error_log: Any) -> Callable[..., dict[str, Any]]:
    """Put a delivery that failed, and has long been due, into the error log; None leaves an attribute out."""

    def put(**changes: Any) -> dict[str, Any]:
        item = {
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
            "nextAttemptAt": "2020-01-01T10:05:01.000Z",
            **changes,
        }
        item = {name: value for name, value in item.items() if value is not None}
        error_log.put_item(Item=item)
        return item

    return put


@pytest.fixture
def before_call() -> Iterator[Callable[[type[Model], str, Callable[[], object]], None]]:
    """Do something once, at the moment at which a table's next call of an operation is about to be sent."""
    waiting = []

    def register(model: type[Model], operation: str, action: Callable[[], object]) -> None:
        events = model._get_connection().connection.client.meta.events

        def once(**_: object) -> None:
            events.unregister(f"before-send.dynamodb.{operation}", once)
            waiting.remove(once)
            action()

        events.register_first(f"before-send.dynamodb.{operation}", once)
        waiting.append(once)

    yield register
    assert waiting == []


Answer = tuple[int, bytes, dict[str, str]]


@dataclass(frozen=True)
class Received:
    """One request, as it came over the wire."""

    path: str
    headers: dict[str, str]
    body: bytes
    method: str = "POST"


@dataclass
class Service:
    """An HTTP service that answers what a test tells it to, and keeps what it was sent."""

    url: str
    requests: list[Received] = field(default_factory=list)
    first: list[Answer] = field(default_factory=list)
    at: dict[str, Answer] = field(default_factory=dict)
    answer: Answer = (200, b"", {})
    released: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.released.set()

    def answers(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.answer = (status, body, headers)

    def answers_at(self, path: str, answer: object, status: int = 200, **headers: str) -> None:
        """Answer requests of one path: with bytes as they are, with anything else as JSON."""
        self.at[path] = (status, answer if isinstance(answer, bytes) else json.dumps(answer).encode(), headers)

    def keeps_secret(self, secret: object) -> None:
        """Answer as Secrets Manager does: with text as it is, with anything else as JSON."""
        text = secret if isinstance(secret, str) else json.dumps(secret)
        self.answers_at("/", {"Name": "kbank-test", "SecretString": text})

    def refuses(self, code: str, status: int) -> None:
        """Answer as the AWS services with a JSON protocol do."""
        self.answer = self._refusal(code, status)

    def refuses_once(self, code: str, status: int) -> None:
        """Refuse one request before all else."""
        self.first.append(self._refusal(code, status))

    def hangs(self) -> None:
        """Take requests, and answer none."""
        self.released.clear()

    @staticmethod
    def _refusal(code: str, status: int) -> Answer:
        body = json.dumps({"__type": code, "Message": "no"}).encode()
        return status, body, {"Content-Type": "application/x-amz-json-1.0", "x-amzn-ErrorType": code}


@pytest.fixture
def service() -> Iterator[Service]:
    """A service on 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            service.requests.append(Received(self.path, dict(self.headers), body, self.command))
            if not service.released.is_set():
                service.released.wait(10)
                return
            answer_here = service.at.get(self.path, service.answer)
            status, answer, headers = service.first.pop(0) if service.first else answer_here
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        do_PUT = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service = Service(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield service
    service.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a port that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def deaf() -> Iterator[str]:
    """The URL of a port on which a connection neither succeeds nor fails: its queue is full."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for queued in (first, second):
            queued.setblocking(False)
            queued.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the AWS clients make between attempts, not waited for: their length is drawn by lot."""
    made: list[float] = []
    monkeypatch.setattr(endpoint, "time", SimpleNamespace(sleep=made.append))
    return made


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let so many seconds pass, for what is remembered in memory."""
    monotonic, passed = time.monotonic, 0.0

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + timedelta(seconds=passed)

    def wait(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    monkeypatch.setattr("aws_lambda_powertools.utilities.parameters.base.datetime", Shifted)
    monkeypatch.setattr("time.monotonic", lambda: monotonic() + passed)
    return wait


@pytest.fixture
def callback() -> dict[str, Any]:
    """What ValidateCallback returns for a paid callback."""
    body = json.loads((ROOT / "events/paid.json").read_text())["body"]
    return {
        "orderId": "482500007436",
        "paymentId": "pay_bankapp_123",
        "userId": USER_ID,
        "success": True,
        "amount": "2339.0",
        "message": "Payment successful",
        "extra": "{}",
        "body": body,
        "requestId": "8f7e6d5c",
        "receivedAt": "2026-11-22T10:00:00.000Z",
        "deliveryId": "2026-11-22T10:00:00.000Z#8f7e6d5c",
        "sourceIp": "203.0.113.7",
        "signatureHeaders": '{"webhook-id": "msg_1", "webhook-signature": "v1,c2lnbmVk"}',
    }


@pytest.fixture
def failure() -> dict[str, Any]:
    """What ReportFailure passes to each report, for a paid callback that could not be kept."""
    return {
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
        "event": {
            "body": json.loads((ROOT / "events/paid.json").read_text())["body"],
            "requestId": "8f7e6d5c",
            "receivedAt": 1795341600000,
            "sourceIp": "203.0.113.7",
            "headers": {"user-agent": "BankGateway/2.1"},
        },
        "executionArn": "arn:aws:states:ap-southeast-1:123456789012:express:payment3-bankapp-callback-test:8f7e6d5c:1",
        "executionName": "8f7e6d5c",
        "startedAt": "2026-11-22T10:00:00.100Z",
        "occurredAt": "2026-11-22T10:00:01.000Z",
    }


@contextmanager
def _measured(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


@pytest.fixture
def within() -> Callable[[float], Any]:
    """Assert that a `with` block takes less than so many seconds."""
    return _measured
