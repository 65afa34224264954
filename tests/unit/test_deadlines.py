"""Every function ends within its Timeout, however slow the services are that it calls.

A fake network lets every call take as long as its client's own timeouts allow, on a clock of its own, and each handler
runs along all paths that the answers open. What a function may call is read from its role.
"""

import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import sentry_sdk
import urllib3
from botocore import exceptions
from botocore.awsrequest import AWSResponse
from botocore.httpsession import URLLib3Session
from botocore.retries.standard import ExponentialBackoff

from callbacks import deadline
from callbacks.selection import MAX_FAILURES
from tests.outcomes import body_of
from tests.sources import FUNCTIONS, statements_of, timeout_of
from tests.unit import test_cross_check_payment
from tests.unit.kit import PAID, Json, Load, Task
from tests.unit.test_dynamodb import CONDITION_FAILED, FAILURE, PARKED, RECORD, item
from tests.unit.test_dynamodb import find as find_failures
from tests.unit.test_signatures import KEY, OTHER_KEY, SECONDS, headers_of

# What a call may be answered, by its action, or by action and table.
type Answers = dict[str, list[Any]]
# Instead of an answer: none in time, or if the service is fast, an error.
FAULT = "fault"
NOTHING: Json = {}

ORDER = {"Item": item(orderId="482500007436", userId="b5f392f7-6d89-433c-b24f-bf6a772cab1a", total=2339)}
PAYMENT = {"orderKey": "BankApp#482500007436", "paymentId": "pay_bankapp_123", "dispatches": 1}
CLAIM = {"claimedBy": "another", "claimedUntil": "2020-01-01T00:00:00.000Z", "attemptId": "another"}
EXPIRED = {"Item": item(**PAYMENT, **CLAIM)}
ALERT = item(kind="k", windowEndsAt=0, openedBy="o", expiration=0)
COUNT_OF = {"kind": "k", "channel": "BankApp", "functionName": "f", "step": "s", "error": "e", "failures": 1}
COUNT = item(**COUNT_OF, since="t", lastAt="t", lastOrder="o", lastRequest="r", windowEndsAt=0, expiration=0)
WAITING = {
    "Items": [item(requestId="r", occurredAt="2020", status="open", attempts=0, error="e", lane="healing")],
    "Count": 1,
    "ScannedCount": 1,
    "LastEvaluatedKey": item(requestId="r", queue="q", queuedAt="t"),
}
ACCESS = {"baseUrl": "https://bank.example", "clientId": "payment3", "clientSecret": "hush-hush"}
SECRET = {"webhookSecrets": [OTHER_KEY], "inquiry": ACCESS}
RENEWED = {**SECRET, "webhookSecrets": [KEY]}
READ_SECRET: Answers = {
    "secretsmanager:GetSecretValue": [{"SecretString": json.dumps(text)} for text in (SECRET, RENEWED)]
}
CONDITIONAL = [{"Attributes": {}}, CONDITION_FAILED]
MORE = {
    "Items": [],
    "Count": 0,
    "ScannedCount": 1,
    "LastEvaluatedKey": item(requestId="r", queue="q", queuedAt="t"),
}
KEYS = {name: RECORD[name] for name in ("orderId", "deliveryId", "shard", "undispatchedSince")}
NO_ITEMS = {"Items": [], "Count": 0, "ScannedCount": 0}
MANY_KEYS = [KEYS | item(deliveryId=f"2020-01-01T10:00:00.000Z#{number}") for number in range(MAX_FAILURES)]
FULL_PAGE = {"Items": MANY_KEYS, "Count": MAX_FAILURES, "ScannedCount": MAX_FAILURES}


class Paths:
    """Every path through the outcomes of the calls: each step of an iteration is one, with a `choose` for each call."""

    def __init__(self) -> None:
        self._ahead: list[int] = []
        self._taken: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[None]:
        self._ahead = []
        while True:
            self._taken = []
            yield
            while self._taken and self._taken[-1][0] == self._taken[-1][1] - 1:
                self._taken.pop()
            if not self._taken:
                return
            self._ahead = [choice for choice, _ in self._taken]
            self._ahead[-1] += 1

    def choose[T](self, options: list[T]) -> T:
        number = len(self._taken)
        choice = self._ahead[number] if number < len(self._ahead) else 0
        self._taken.append((choice, len(options)))
        return options[choice]


@dataclass
class Network:
    """Answers every request from `answers`, by the call's action and its table, on a clock of its own.

    A slow call takes as long as its client's own timeouts allow, or its service's `durations`. On each path all
    calls are slow from one of them on. A call without an answer here is an error that no handler can catch. With
    `is_lost` there is one path: it tells by a call's number whether it gets no answer.
    """

    answers: Answers
    is_lost: Callable[[int], bool] | None = None
    max_faults: int = 2
    durations: dict[str, float] = field(default_factory=dict)
    paths: Paths = field(default_factory=Paths)
    seconds: float = 0
    actions: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    faults: int = 0
    is_slow: bool = False

    def walk(self) -> Iterator[None]:
        """Start one path after the other."""
        for _ in self.paths:
            self.seconds, self.calls, self.faults, self.is_slow = 0, [], 0, False
            yield

    def _take(self, action: str, detail: str, seconds: float) -> Any:
        """Let the time of a call pass; return its answer or FAULT."""
        answers = self.answers.get(f"{action} {detail}", self.answers.get(action))
        if answers is None:
            raise Unexpected(f"{action} {detail}")
        self.actions.add(action)
        self.calls.append(action)
        self.is_slow = self.is_slow or bool(self.is_lost) or self.paths.choose([False, True])
        if self.is_lost:
            answer = FAULT if self.is_lost(len(self.calls)) else answers[0]
        else:
            answer = self.paths.choose([*answers, FAULT] if self.faults < self.max_faults else answers)
        self.faults += answer == FAULT
        if self.is_slow:
            self.pass_time(self.durations.get(action.partition(":")[0], seconds))
        self.pass_time(deadline.OWN_SECONDS)
        return answer

    def pass_time(self, seconds: float) -> None:
        self.seconds += seconds

    def send(self, timeout: Any, request: Any) -> AWSResponse:
        """Take a request of botocore."""
        host = request.url.split("/")[2].split(".")[0]
        service, only_action = {"email": ("ses", "SendEmail"), "lambda": ("lambda", "InvokeFunction")}.get(
            host, (host, "")
        )
        target = request.headers.get("X-Amz-Target", b"")
        action = only_action or (target if isinstance(target, str) else target.decode()).rpartition(".")[2]
        table = json.loads(request.body).get("TableName", "") if service == "dynamodb" else ""
        answer = self._take(f"{service}:{action}", table, timeout.connect_timeout + timeout.read_timeout)
        if answer == FAULT and self.is_slow:
            raise exceptions.ReadTimeoutError(endpoint_url=request.url)
        if answer == FAULT:
            answer = {"__type": "ThrottlingException", "Message": "no"}
        status = 400 if "__type" in answer else 200
        body = json.dumps(answer).encode() if service != "ses" else SES_ANSWERS[status]
        headers: Any = urllib3.HTTPHeaderDict({"x-amzn-requestid": "r"})
        return AWSResponse(request.url, status, headers, Raw(body))

    def urlopen(self, timeout: Any, method: str, url: str) -> Any:
        """Take any other request."""
        timeout = timeout if isinstance(timeout, urllib3.Timeout) else urllib3.Timeout.from_float(timeout)
        seconds: Any = timeout.total or timeout.connect_timeout + timeout.read_timeout
        answer = self._take(f"{method} {url}", "", seconds)
        if answer == FAULT and self.is_slow:
            raise urllib3.exceptions.ReadTimeoutError(None, url, "no answer")  # type: ignore[arg-type]
        status = 503 if answer == FAULT else 200
        return urllib3.HTTPResponse(Raw(json.dumps(answer).encode()), status=status, preload_content=False)


class Unexpected(BaseException):
    """A call that the test does not know."""


class Raw(io.BytesIO):
    """A body as botocore reads it."""

    def stream(self, **_: object) -> Iterator[bytes]:
        yield self.read()


SES_ANSWERS = {
    200: b"<SendEmailResponse><SendEmailResult><MessageId>m</MessageId></SendEmailResult></SendEmailResponse>",
    400: b"<ErrorResponse><Error><Code>Throttling</Code><Message>no</Message></Error></ErrorResponse>",
}


@dataclass
class Case:
    """An invocation of a function: its event, the answers that its calls may get, and what it remembers before."""

    event: Callable[[Json, Json], Json]
    answers: Answers = field(default_factory=dict)
    is_lost: Callable[[int], bool] | None = None
    max_faults: int = 2
    prepare: Callable[[Task], object] = lambda _: None


def every_second(number: int) -> bool:
    """Return whether a call is the first attempt, if each succeeds at the second."""
    return number % 2 == 1


def never(_: int) -> bool:
    """Return that no call is lost."""
    return False


def remember_secret(age: float | None) -> Callable[[Task], None]:
    """Return what lets a task remember a secret of that age, or none."""

    def prepare(task: Task) -> None:
        secrets = task.bank_secret
        secrets.remembered.clear()
        secrets.asked_at.clear()
        if age is not None:
            secrets.remembered["kbank-test"] = secrets.Remembered(SECRET, time.monotonic() - age)
            secrets.asked_at["kbank-test"] = time.monotonic() - age
        if hasattr(task, "bank"):
            task.bank._http_bank.cache_clear()

    return prepare


def verify(*_: Json) -> Json:
    body = body_of("paid")
    delivery = {"body": body, "receivedAt": SECONDS * 1000, "headers": headers_of(body)}
    names = {"executionName": "e", "startedAt": "2026-11-22T10:00:00Z"}
    return {"delivery": delivery, **names, "mode": "enforce", "scheme": "standard", "secret": "kbank-test"}


def save(callback: Json, _: Json) -> Json:
    names = {"channel": "BankApp", "table": "records", "executionArn": "a", "signature": "skipped"}
    return {**names, "delivery": PAID, "callback": callback}


def dispatch(mode: str) -> Callable[[Json, Json], Json]:
    names = {"channel": "BankApp", "function": "process-paid", "table": "records", "secondPaymentMode": mode}
    verdicts = {"crossCheck": "passed", "inquiry": "skipped"}
    return lambda callback, _: {**names, "callback": callback, "verdicts": verdicts, "body": body_of("paid")}


def inquire(callback: Json, _: Json) -> Json:
    return {"callback": callback, "mode": "enforce", "secret": "kbank-test"}


def collect(**selection: str) -> Callable[[Json, Json], Json]:
    return lambda *_: {
        "channel": "BankApp",
        "functionName": "bankappcallback",
        "table": "records",
        "selection": selection,
    }


def find(**selection: str) -> Callable[[Json, Json], Json]:
    return lambda *_: find_failures(**selection).event


def reopen(*_: Json) -> Json:
    body = {"requestContext": {"requestId": "r"}, "requestPayload": json.loads(body_of("paid"))}
    return {"Records": [{"messageId": "m", "body": json.dumps(body)}]}


def deploy(*_: Json) -> Json:
    names = ("StackId", "RequestId", "LogicalResourceId")
    modes = {f"{check}Mode": "enforce" for check in ("Signature", "CrossCheck", "Inquiry")}
    tables = {name: {"table": name, "key": "k"} for name in ("Orders", "Payments")}
    properties = {**modes, **tables, "SignatureScheme": "standard", "Secret": "kbank-test", "InquirySecret": "k"}
    url = {"RequestType": "Create", "ResponseURL": "https://cloudformation.example/answer"}
    return {**url, **dict.fromkeys(names, "n"), "ResourceProperties": properties}


LEDGER, ERROR_LOG = "payment3-payment-ledger-test", "payment3-callback-error-log-test"
READ_ORDER: Answers = {"dynamodb:GetItem": [ORDER, NOTHING]}
READ_FAILURE: Answers = {"dynamodb:GetItem": [FAILURE, NOTHING], "dynamodb:UpdateItem": CONDITIONAL}
BANK: Answers = {
    f"POST {ACCESS['baseUrl']}/oauth/token": [{"access_token": "t", "expires_in": 3600}],
    f"POST {ACCESS['baseUrl']}/payments/inquiry": [{"status": "PAID", "amount": "2339.00"}],
}
SENTRY = "https://sentry.example/api/1/envelope/"
CASES: dict[str, list[Case]] = {
    "VerifySignature": [Case(verify, READ_SECRET, prepare=remember_secret(age)) for age in (None, 60, 301)],
    "ValidateCallback": [
        Case(
            lambda *_: {
                "delivery": {"body": body_of("paid")},
                "executionName": "e",
                "startedAt": "2026-11-22T10:00:00Z",
            }
        )
    ],
    "SaveCallbackRecord": [Case(save, {"dynamodb:PutItem": CONDITIONAL, "dynamodb:GetItem": [NOTHING, EXPIRED]})],
    "CrossCheckPayment": [Case(lambda callback, _: test_cross_check_payment.event(callback), READ_ORDER)],
    "InquirePayment": [Case(inquire, READ_SECRET | BANK, prepare=remember_secret(age)) for age in (None, 60, 301)],
    "InvokeProcessPaid": [
        Case(
            dispatch("hold"),
            {
                "dynamodb:UpdateItem": CONDITIONAL,
                f"dynamodb:GetItem {LEDGER}": [EXPIRED],
                "dynamodb:GetItem records": [NOTHING, {"Item": RECORD | item(dispatchedBy="another")}],
                "dynamodb:Query": [NO_ITEMS],
                "lambda:InvokeFunction": [NOTHING],
            },
            # It makes so many calls that two would take seconds.
            max_faults=1,
        )
    ],
    "WriteErrorLog": [Case(lambda _, failure: failure, {"dynamodb:UpdateItem": CONDITIONAL})],
    "ReportToSentry": [
        Case(lambda _, failure: failure, {f"POST {SENTRY}": [NOTHING]}, prepare=lambda task: task.remembered.clear())
    ],
    "SendErrorEmail": [
        Case(
            lambda _, failure: failure,
            {
                "dynamodb:UpdateItem": [{"Attributes": ALERT}, CONDITION_FAILED],
                "dynamodb:GetItem": [{"Item": ALERT}],
                "ses:SendEmail": [NOTHING],
            },
            prepare=lambda task: task.alerts.remembered.clear(),
        )
    ],
    "ReportSuppressed": [
        Case(
            lambda *_: {"channel": "BankApp"},
            {
                "dynamodb:Scan": [{"Items": [COUNT], "Count": 1, "ScannedCount": 1}],
                "dynamodb:UpdateItem": [{"Attributes": COUNT | item(emailed=1)}],
                "dynamodb:DeleteItem": [NOTHING],
                "ses:SendEmail": [NOTHING],
                f"POST {SENTRY}": [NOTHING],
            },
            is_lost=is_lost,
        )
        for is_lost in (every_second, never)
    ],
    "SendDigest": [
        Case(
            lambda *_: {"channel": "BankApp"},
            {"dynamodb:Query": [WAITING], "ses:SendEmail": [NOTHING]},
            is_lost=is_lost,
        )
        for is_lost in (every_second, never)
    ],
    # A lost call ends it, so no path is longer than one that loses none.
    "TakeParked": [
        Case(
            lambda *_: {},
            {
                "sqs:ReceiveMessage": [{"Messages": [PARKED] * 10}],
                "sqs:DeleteMessageBatch": [NOTHING],
                "dynamodb:UpdateItem": [{"Attributes": {}}],
            },
            is_lost=never,
        )
    ],
    "CollectUndispatched": [
        Case(
            event,
            {
                "dynamodb:Query records": [page],
                "dynamodb:BatchGetItem": [{"Responses": {ERROR_LOG: []}, "UnprocessedKeys": {}}],
                "dynamodb:GetItem": [{"Item": RECORD}],
                "dynamodb:UpdateItem records": [{"Attributes": RECORD}],
                f"dynamodb:UpdateItem {ERROR_LOG}": [{"Attributes": {}}],
            },
            is_lost=every_second,
        )
        for event, page in [
            (collect(), FULL_PAGE),
            (collect(orderId="482500007436"), MORE),
            (collect(orderId="482500007436"), FULL_PAGE | {"Items": [RECORD | key for key in MANY_KEYS]}),
        ]
    ],
    "FindFailures": [
        Case(find(orderId="482500007436"), {"dynamodb:Query": [MORE]}, is_lost=every_second),
        Case(find(since="2020-01-01T10:00:00Z"), {"dynamodb:Query": [MORE]}, is_lost=every_second),
        # It makes so many calls that each path would take seconds.
        Case(find(), {"dynamodb:Query": [NO_ITEMS]}, is_lost=every_second),
        Case(find(requestId="8f7e6d5c"), {"dynamodb:GetItem": [FAILURE, NOTHING]}),
    ],
    "ClaimFailure": [Case(lambda *_: {"requestId": "8f7e6d5c", "isManual": False}, READ_FAILURE)],
    "SettleFailure": [
        Case(
            lambda *_: {
                "requestId": "r",
                "attempt": 1,
                "lane": "healing",
                "isManual": False,
                "run": {"Status": "TIMED_OUT"},
            },
            READ_FAILURE,
        )
    ],
    "ReopenPayment": [
        Case(
            reopen,
            {
                f"dynamodb:GetItem {LEDGER}": [{"Item": item(**PAYMENT, dispatchedBy="first", invokeRequestId="r")}],
                "dynamodb:GetItem records": [{"Item": RECORD}],
                f"dynamodb:GetItem {ERROR_LOG}": [NOTHING, {"Item": FAILURE["Item"] | item(status="resolved")}],
                "dynamodb:UpdateItem": CONDITIONAL,
                "lambda:InvokeFunction": [NOTHING],
            },
            # It makes so many calls that two would take seconds.
            max_faults=1,
        ),
        Case(
            reopen,
            {
                f"dynamodb:GetItem {LEDGER}": [{"Item": item(**PAYMENT, dispatchedBy="first", invokeRequestId="r")}],
                "dynamodb:GetItem records": [{"Item": RECORD}],
                f"dynamodb:GetItem {ERROR_LOG}": [{"Item": FAILURE["Item"] | item(status="resolved")}],
                "dynamodb:UpdateItem": [{"Attributes": {}}],
                "lambda:InvokeFunction": [NOTHING],
            },
            is_lost=every_second,
        ),
    ],
    # Its pauses are for all reads together, so that no path is longer than one without any answer.
    "CheckReadiness": [
        Case(
            deploy,
            {
                "secretsmanager:GetSecretValue": [FAULT],
                "dynamodb:GetItem": [FAULT],
                "PUT https://cloudformation.example/answer": [NOTHING],
            },
            is_lost=never,
        )
    ],
}
TASKS = {name: properties["Handler"].partition(".")[0] for name, properties in FUNCTIONS.items()}
# Lambda itself calls these for a function, and SQS for one whose events are messages.
RUNTIME = {"logs", "xray"}


class Executor:
    """A pool whose tasks run at once, and whose results are late if the network's clock says so."""

    network: Network

    def __init__(self, _: int) -> None:
        pass

    def submit(self, function: Callable[..., Any], *arguments: Any) -> SimpleNamespace:
        def result(limit: float) -> Any:
            started = self.network.seconds
            try:
                return function(*arguments)
            finally:
                if self.network.seconds > started + limit:
                    self.network.seconds = started + limit
                    raise TimeoutError

        return SimpleNamespace(result=result)

    def shutdown(self, *, wait: bool) -> None:
        assert not wait


@contextmanager
def only(network: Network) -> Iterator[None]:
    """Make a network the only one, and its clock that of the process."""

    def refuse(*_: object) -> None:
        raise Unexpected("a connection past the network")

    now, sleep, caller = time.monotonic, time.sleep, threading.current_thread()

    def pause(seconds: float) -> None:
        # Other threads, such as the one with which Sentry's SDK watches itself, have the real time.
        (network.pass_time if threading.current_thread() is caller else sleep)(seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(URLLib3Session, "send", lambda session, request: network.send(session._timeout, request))
        patch.setattr(
            urllib3.PoolManager,
            "urlopen",
            lambda manager, *request, **_: network.urlopen(manager.connection_pool_kw["timeout"], *request),
        )
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr("callbacks.bank.ThreadPoolExecutor", Executor)
        patch.setattr(Executor, "network", network, raising=False)
        patch.setattr("time.sleep", pause)
        patch.setattr("time.monotonic", lambda: now() + network.seconds)
        # A client draws its pauses at random; the longest counts.
        patch.setattr(ExponentialBackoff, "delay_amount", lambda _, context: float(2 ** (context.attempt_number - 1)))
        yield


def context_of(network: Network, limit: float) -> SimpleNamespace:
    """Return the part of Lambda's context that the tasks use, on the network's clock."""

    def milliseconds() -> float:
        return 1000 * (limit - network.seconds)

    return SimpleNamespace(get_remaining_time_in_millis=milliseconds, aws_request_id="attempt-1")


def permitted(name: str) -> set[str]:
    """Return the actions of other services that the function's role permits."""
    actions = {action for statement in statements_of(f"{name}Role") for action in statement["Action"]}
    runtime = RUNTIME | {event["Type"].lower() for event in FUNCTIONS[name].get("Events", {}).values()}
    return {action for action in actions if action.partition(":")[0] not in runtime}


@pytest.fixture(autouse=True)
def no_client_is_left_over() -> Iterator[None]:
    """Importing ReportToSentry initializes Sentry for the whole process."""
    yield
    sentry_sdk.get_global_scope().set_client(None)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_ends_in_time_however_slow_its_calls_are(
    load: Load,
    callback: Json,
    failure: Json,
    name: str,
) -> None:
    task = load(TASKS[name], SENTRY_DSN="https://key@sentry.example/1")
    limit = timeout_of(name)
    actions: set[str] = set()
    returned: list[object] = []
    raised: list[Exception] = []
    for case in CASES[name]:
        network = Network(case.answers, case.is_lost, case.max_faults)
        context = context_of(network, limit)
        with only(network):
            for _ in network.walk():
                case.prepare(task)
                try:
                    returned.append(task.handler(case.event(callback, failure), context))
                except Exception as error:  # noqa: BLE001 how it fails is for other tests
                    raised.append(error)
                assert network.seconds <= limit, network.calls
        actions |= network.actions
    # SQS has no permission of its own for a batch.
    used = {action.removesuffix("Batch") for action in actions if not action.startswith(("POST ", "PUT "))}
    assert used == permitted(name)
    assert returned


def test_a_payment_is_dispatched_however_slow_the_services_usually_get(load: Load, callback: Json) -> None:
    task = load("invoke_process_paid")
    (case,) = CASES["InvokeProcessPaid"]
    network = Network(case.answers, lambda _: False, durations={"dynamodb": 0.45, "lambda": 0.9})
    with only(network):
        context = context_of(network, timeout_of("InvokeProcessPaid"))
        answer = task.handler(dispatch("warn")(callback, {}), context)
    assert answer["dispatchedBy"] == callback["deliveryId"]
    assert network.calls == ["dynamodb:UpdateItem", "lambda:InvokeFunction", "dynamodb:UpdateItem"]
