"""What the unit tests share: short names for types, and an HTTP service that a test directs."""

import json
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType, SimpleNamespace
from typing import Any

from pynamodb.models import Model

from callbacks import times
from tests.outcomes import body_of

Json = dict[str, Any]
# A task function's module; its members are Any.
Task = ModuleType
# `load("write_error_log", ERROR_LOG_TABLE="…")`
Load = Callable[..., Task]
# The lines logged so far.
Log = Callable[[], list[Json]]
# Put an item with these attributes changed, and return it; None leaves one out.
Put = Callable[..., Json]
# `with within(1.5): …`
Within = Callable[[float], AbstractContextManager[None]]
# Let so many seconds pass.
Later = Callable[[float], None]
# Act once, just before a model's next call of an operation is sent.
BeforeCall = Callable[[type[Model], str, Callable[[], object]], None]
# boto3's tables and clients: what they return is a union of all that DynamoDB can hold.
Table = Any
Client = Any
# A table of the template by its logical id.
TableOf = Callable[[str], Table]

# The delivery of events/paid.json, signed, as the API's template makes it.
PAID = {
    "body": body_of("paid"),
    "requestId": "8f7e6d5c",
    "receivedAt": 1795341600000,
    "sourceIp": "203.0.113.7",
    "headers": {"user-agent": "BankGateway/2.1", "webhook-id": "msg_1", "webhook-signature": "v1,c2lnbmVk"},
}

# A map is larger than what it holds, and each of its members takes a byte more.
NESTING_BYTES = 3 + 3

# Status, body and headers.
Answer = tuple[int, bytes, dict[str, str]]


@dataclass(frozen=True)
class Received:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes
    method: str


@dataclass
class Service:
    """An HTTP service that answers as a test tells it to, and keeps the requests."""

    url: str
    requests: list[Received] = field(default_factory=list)
    # One each for the next requests, before all else.
    first: list[Answer] = field(default_factory=list)
    at: dict[str, Answer] = field(default_factory=dict)
    answer: Answer = (200, b"", {})
    released: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.released.set()

    def answers(self, status: int, body: bytes = b"", /, **headers: str) -> None:
        self.answer = (status, body, headers)

    def answers_once(self, status: int, body: bytes = b"") -> None:
        self.first.append((status, body, {}))

    def answers_at(self, path: str, answer: object, status: int = 200, /, **headers: str) -> None:
        """Answer the requests for one path: bytes as they are, anything else as JSON."""
        self.at[path] = (status, answer if isinstance(answer, bytes) else json.dumps(answer).encode(), headers)

    def keeps_secret(self, secret: object) -> None:
        """Answer as Secrets Manager does: text as it is, anything else as JSON."""
        text = secret if isinstance(secret, str) else json.dumps(secret)
        self.answers_at("/", {"Name": "kbank-test", "SecretString": text})

    def refuses(self, code: str, status: int) -> None:
        """Answer with an error, as AWS services with a JSON protocol do."""
        self.answer = self._refusal(code, status)

    def refuses_once(self, code: str, status: int) -> None:
        self.first.append(self._refusal(code, status))

    def hangs(self) -> None:
        """Accept requests and answer none."""
        self.released.clear()

    @staticmethod
    def _refusal(code: str, status: int) -> Answer:
        body = json.dumps({"__type": code, "Message": "no"}).encode()
        return status, body, {"Content-Type": "application/x-amz-json-1.0", "x-amzn-ErrorType": code}


class ServiceServer(ThreadingHTTPServer):
    """Plays on one port the service of the test that runs."""

    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.start_over()

    def start_over(self) -> Service:
        self.service = Service(f"http://127.0.0.1:{self.server_port}")
        return self.service


class _Handler(BaseHTTPRequestHandler):
    server: ServiceServer

    def do_POST(self) -> None:
        service = self.server.service
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
        """Print nothing."""


def context(milliseconds: int = 60_000, attempt: str = "attempt-1") -> Any:
    """Return the part of Lambda's context that the tasks use."""
    return SimpleNamespace(get_remaining_time_in_millis=lambda: milliseconds, aws_request_id=attempt)


def items(table: Table) -> list[Json]:
    """Return all items of a table, without DynamoDB's types."""
    found: list[Json] = table.scan()["Items"]
    return found


def only(table: Table) -> Json:
    """Return the one item of a table."""
    (item,) = items(table)
    return item


def size_of(value: Any) -> int:
    """Return the bytes of an item, or of a value in it, as DynamoDB counts them: UTF-8 of names and values."""
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, dict):
        return sum(len(name.encode()) + size_of(each) for name, each in value.items()) + NESTING_BYTES
    # About a byte for each two digits, and one more.
    return len(str(value)) // 2 + 2


def from_now(**delta: float) -> str:
    """Return the time so long from now, as tables hold it."""
    return times.iso(times.now() + timedelta(**delta))


def operations(service: Service) -> list[str]:
    """Return the operations called, in order: DynamoDB names its own in a header, Lambda's are all Invoke."""
    return [request.headers.get("X-Amz-Target", ".Invoke").rpartition(".")[2] for request in service.requests]


def reported(failure: Json, **changes: str) -> Json:
    """Return what the reports take, with another member in the report."""
    return {**failure, "report": {**failure["report"], **changes}}
