"""The AWS account around the state machines: the real handlers, the tables, the e-mails, and the faults to inject."""

import importlib
import inspect
import json
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Lock, Thread
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ReadTimeoutError
from moto.core.models import botocore_stubber
from moto.ses.models import ses_backends
from moto.sqs.models import sqs_backends
from moto.stepfunctions.parser.models import stepfunctions_parser_backends

from callbacks import times
from local.stack import ROOT
from tests.sources import FUNCTIONS, TEMPLATE
from tests.workflow import engine
from tests.workflow.engine import ACCOUNT, ERROR_TABLE, LEDGER_TABLE, PARKED_QUEUE, RECORD_TABLE, REGION, resolved

# A call to AWS, by texts that its description contains (see AwsCalls).
Call = tuple[str, ...]
SAVE_RECORD: Call = ("PutItem", f'"TableName": "{RECORD_TABLE}"')
SAVE_ERROR: Call = ("UpdateItem", f'"TableName": "{ERROR_TABLE}"')
PARK: Call = ("in :", "AmazonSQS.SendMessage")
START_CALLBACK: Call = ("StartSyncExecution",)
SEND_MAIL: Call = ("Action=SendEmail",)
INVOKE: Call = ("/invocations",)
CLAIM_PAYMENT: Call = ("in InvokeProcessPaid:", "UpdateItem", '"userDigest"')
FINISH_CLAIM: Call = ("in InvokeProcessPaid:", "UpdateItem", '"invokeRequestId"')
# Step Functions makes this call itself.
CONFIRM_DISPATCH: Call = ("UpdateItem", "dispatchedBy", f'"TableName": "{RECORD_TABLE}"')
# How often a payment is dispatched automatically at most, if nobody knows how an attempt ended.
PROMISED = 1 + TEMPLATE["Parameters"]["MaxDispatchRepeats"]["Default"]
REOPEN_PAYMENT: str = resolved({"Fn::GetAtt": ["ReopenPayment", "Arn"]})

Handler = Callable[[Any, object], Any]
# What Step Functions sees of a function that fails: Lambda's refusal of the invocation, or a FunctionError payload.
Fault = Exception | dict[str, str]
DEFAULT_TIMEOUT: int = TEMPLATE["Globals"]["Function"]["Timeout"]
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)

HttpAnswer = tuple[int, dict[str, str], str]

# The FunctionErrors of a process that died, and of one that ran out of time.
PROCESS_DIED = {
    "errorType": "Runtime.ExitError",
    "errorMessage": "RequestId: 8f5e Error: Runtime exited with error: signal: killed",
}

TIMED_OUT = {"errorType": "Sandbox.Timedout", "errorMessage": "RequestId: 8f5e Error: Task timed out"}

# More often than anything is called while a fault lasts.
ALWAYS = 9_999
# How much of its client's patience a slow call uses up.
SLOWNESS = 0.9
# A client pauses for a random time before its second attempt, at most for this long.
LONGEST_PAUSE_SECONDS = 1.0

# The state whose function is running in this thread, and the function's clock.
running_state: ContextVar[str] = ContextVar("running_state", default="")
running_clock: ContextVar["Clock | None"] = ContextVar("running_clock", default=None)
# Whether the test itself is calling AWS: no fault is meant for it.
is_test_calling: ContextVar[bool] = ContextVar("is_test_calling", default=False)
# The seconds for which the client that is calling AWS waits for an answer.
client_patience: ContextVar[float] = ContextVar("client_patience", default=60)

# Shared by all tests, because creating a client takes longer than using it. It does not retry: the states do.
client: Callable[[str], Any] = cache(partial(boto3.client, config=Config(retries={"total_max_attempts": 1})))


class ProcessKilled(BaseException):
    """Ends a function's process; nothing in the function can catch it."""


class FunctionTimedOut(ProcessKilled):
    """Ends a function's process, because its time is up."""


def kill_process() -> None:
    raise ProcessKilled


class Clock:
    """The time of a running function. Only slow and unanswered calls use it up, so it is the same on any machine."""

    def __init__(self, state: str) -> None:
        self._limit: float = FUNCTIONS[state].get("Timeout", DEFAULT_TIMEOUT)
        self._spent = 0.0

    def spend(self, seconds: float) -> None:
        self._spent += seconds
        # Nothing is left for the function itself.
        if self._spent >= self._limit:
            raise FunctionTimedOut

    def remaining_milliseconds(self) -> int:
        """Return a time that is long enough for any machine, unless a call was slow."""
        return int((self._limit - self._spent) * 1000) if self._spent else 60_000


class RealClock(Clock):
    """A clock by which slow calls really take their time."""

    def __init__(self, state: str) -> None:
        super().__init__(state)
        self._started = time.monotonic()

    def spend(self, seconds: float) -> None:
        time.sleep(seconds)
        if self.remaining_milliseconds() <= 0:
            raise FunctionTimedOut

    def remaining_milliseconds(self) -> int:
        return int((self._limit - time.monotonic() + self._started) * 1000)


def spend(seconds: float) -> None:
    """Let time pass for the function that is running, if one is."""
    clock = running_clock.get()
    if clock is not None:
        clock.spend(seconds)


def load_handlers(**parameters: str) -> dict[str, Handler]:
    """Return each function's handler by function ARN, newly imported with the environment that the template gives it.

    The functions read their environment when they are imported, and other tests import them with other environments.
    """
    own = {path.stem for path in (ROOT / "functions").iterdir()}
    others = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in own}
    handlers = {}
    for function, properties in FUNCTIONS.items():
        variables = resolved(properties.get("Environment", {}).get("Variables", {}), **parameters)
        module, _, attribute = properties["Handler"].rpartition(".")
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in variables.items():
                patch.setenv(variable, str(value))
            handlers[resolved({"Fn::GetAtt": [function, "Arn"]})] = getattr(importlib.import_module(module), attribute)
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        del sys.modules[name]
    sys.modules.update(others)
    return handlers


class Lambda:
    """Answers lambda:invoke as Lambda does: takes and returns JSON, and turns an exception into a FunctionError."""

    def __init__(self, handlers: dict[str, Handler]) -> None:
        self._handlers = handlers
        self._faults: defaultdict[str, list[Fault]] = defaultdict(list)
        self._lost: set[str] = set()
        self._actions: defaultdict[str, list[Callable[[], None]]] = defaultdict(list)
        self._running: Counter[str] = Counter()
        self._changed = Condition()
        # Whether the latest invocation ended because its time was up.
        self.has_timed_out = False
        self.attempts: Counter[str] = Counter()
        self.answers: dict[str, Any] = {}
        # What Lambda itself writes to the log of the tasks: each exception that leaves a handler.
        self.log: list[str] = []
        for state in ("SendErrorEmail", "ReportToSentry"):
            self.replace_container(state)

    def replace_container(self, state: str) -> None:
        """Let a container that remembers no alert window run the state's function from now on."""
        if state == "SendErrorEmail":
            alerts = self.module_global(state, "alerts")
            alerts.remembered.clear()
            alerts.uncounted.clear()
        if state == "ReportToSentry":
            self.module_global(state, "remembered").clear()

    def fail(self, state: str, fault: Fault, times: int = 99) -> None:
        """Make the next invocations of the state's function fail."""
        self._faults[state] += [fault] * times

    def module_global(self, state: str, name: str) -> Any:
        """Return a global of the module that defines the state's function."""
        (handler,) = (handler for arn, handler in self._handlers.items() if arn.split("-")[-2] == state)
        return inspect.unwrap(handler).__globals__[name]

    def lose_answer(self, state: str) -> None:
        """Run the state's function once without telling Step Functions."""
        self._lost.add(state)

    def run_after(self, state: str, action: Callable[[], None], times: int = 1) -> None:
        """Run an action, as soon as the state's function has finished, after each of its next invocations."""
        self._actions[state] = [action] * times

    def recover(self) -> None:
        self._faults.clear()
        self._lost.clear()
        self._actions.clear()

    @contextmanager
    def idle(self, state: str) -> Iterator[None]:
        """Wait until the state's function is not running, and start it no sooner than the block ends."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._running[state], timeout=30)
            yield

    @contextmanager
    def _run(self, state: str) -> Iterator[None]:
        with self._changed:
            self._running[state] += 1
        tokens = running_state.set(state), running_clock.set(Clock(state))
        try:
            yield
        finally:
            running_state.reset(tokens[0])
            running_clock.reset(tokens[1])
            with self._changed:
                self._running[state] -= 1
                self._changed.notify_all()

    def invoke(self, parameters: dict[str, Any], **_: object) -> dict[str, Any]:
        state = parameters["FunctionName"].split("-")[-2]
        with self._run(state):
            answer = self._answer(state, parameters)
        self.has_timed_out = state in self._lost or answer["Payload"] == TIMED_OUT
        if state in self._lost:
            self._lost.remove(state)
            raise TimeoutError
        return answer

    def _answer(self, state: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self.attempts[state] += 1
        fault = self._faults[state].pop(0) if self._faults[state] else None
        if isinstance(fault, Exception):
            raise fault
        if fault:
            return {"StatusCode": 200, "FunctionError": "Unhandled", "Payload": fault}
        clock = running_clock.get()
        assert clock is not None
        context = SimpleNamespace(
            aws_request_id=str(uuid4()),
            function_name=parameters["FunctionName"],
            get_remaining_time_in_millis=clock.remaining_milliseconds,
        )
        try:
            result = self._handlers[parameters["FunctionName"]](json.loads(parameters["Payload"]), context)
            payload = json.loads(json.dumps(result, allow_nan=False))
            if self._actions[state]:
                self._actions[state].pop()()
        except ProcessKilled as end:
            self.replace_container(state)
            payload = TIMED_OUT if isinstance(end, FunctionTimedOut) else PROCESS_DIED
            return {"StatusCode": 200, "FunctionError": "Unhandled", "Payload": payload}
        except Exception as error:  # noqa: BLE001 Lambda answers for any exception
            trace = traceback.format_tb(error.__traceback__)
            name = type(error).__name__
            payload = {"errorMessage": str(error), "errorType": name, "requestId": "8f5e", "stackTrace": trace}
            self.log.append(json.dumps({"level": "ERROR", **payload}, ensure_ascii=False))
            return {"StatusCode": 200, "FunctionError": "Unhandled", "Payload": payload}
        self.answers[state] = payload
        return {"StatusCode": 200, "ExecutedVersion": "$LATEST", "Payload": payload}


def lambda_error(code: str, status: int = 500) -> ClientError:
    """Return the error that Step Functions gets if Lambda refuses an invocation."""
    answer = {
        "Error": {"Code": code, "Message": code},
        "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "8f5e"},
    }
    return ClientError(answer, "Invoke")  # type: ignore[arg-type]


@dataclass
class CallFault:
    """How the next calls are answered, so many times."""

    call: Call
    answer: Callable[[Any], HttpAnswer]
    times: int


class AwsCalls:
    """Takes every call to AWS at moto's botocore hook: injects the faults that a test asks for, else calls moto.

    A call is known by its description, such as "in SaveCallbackRecord: https://… DynamoDB_20120810.PutItem {…}". The
    state is empty if Step Functions makes the call itself.
    """

    def __init__(self) -> None:
        self._moto = botocore_stubber.process_request
        self._one_at_a_time = Lock()
        self._faults: list[CallFault] = []
        self.invoked: list[tuple[str, str, bytes]] = []
        self.faulted: list[Call] = []

    def refuse(self, call: Call, code: str, status: int = 400, times: int = ALWAYS) -> None:
        """Answer the next calls with an error."""
        xml = f"<ErrorResponse><Error><Code>{code}</Code><Message>{code}</Message></Error></ErrorResponse>"
        body = xml if call == SEND_MAIL else json.dumps({"__type": code, "message": code})
        headers = {"x-amzn-errortype": code, "x-amzn-requestid": "8f5e"}
        self._break(call, lambda _: (status, headers, body), times)

    def lose_answer(self, call: Call, times: int = ALWAYS) -> None:
        """Execute the next calls, but lose their answers."""

        def lost(request: Any) -> HttpAnswer:
            self._execute(request)
            return self._wait_in_vain(request)

        self._break(call, lost, times)

    def time_out(self, call: Call, times: int = ALWAYS) -> None:
        """Leave the next calls without an answer, and do not execute them."""

        self._break(call, self._wait_in_vain, times)

    def lose_in_queue(self, call: Call, times: int = ALWAYS) -> None:
        """Accept the next invokes, and never run the function."""
        self._break(call, lambda _: (202, {}, ""), times)

    def slow_down(self, call: Call, times: int = ALWAYS) -> None:
        """Let the answers to the next calls arrive just before the client stops waiting for them."""

        def late(request: Any) -> HttpAnswer:
            answer: HttpAnswer = self._execute(request)
            spend(SLOWNESS * client_patience.get())
            return answer

        self._break(call, late, times)

    @staticmethod
    def _wait_in_vain(request: Any) -> HttpAnswer:
        spend(client_patience.get())
        raise ReadTimeoutError(endpoint_url=request.url)

    def run_after(self, call: Call, action: Callable[[], object], times: int = 1) -> None:
        """Execute the next calls, and run an action before the answer of each arrives."""

        def execute(request: Any) -> HttpAnswer:
            answer: HttpAnswer = self._execute(request)
            action()
            return answer

        self._break(call, execute, times)

    def _break(self, call: Call, answer: Callable[[Any], HttpAnswer], times: int) -> None:
        self._faults.append(CallFault(call, answer, times))

    def recover(self) -> None:
        self._faults.clear()

    def process_request(self, request: Any) -> Any:
        body = request.body if isinstance(request.body, bytes) else str(request.body).encode()
        target = request.headers.get("X-Amz-Target")
        description = f"in {running_state.get()}: {request.url} {target} {body.decode()}"
        for fault in () if is_test_calling.get() else self._faults:
            if fault.times and all(text in description for text in fault.call):
                fault.times -= 1
                self.faulted.append(fault.call)
                return fault.answer(request)
        return self._execute(request)

    def _execute(self, request: Any) -> Any:
        if START_CALLBACK[0] in str(request.headers.get("X-Amz-Target")):
            return self._start_callback(json.loads(request.body))
        if "dynamodb" in request.url:
            # A conditional write is atomic; moto lets other threads in between.
            with self._one_at_a_time:
                return self._moto(request)
        if INVOKE[0] not in request.url:
            return self._moto(request)
        function = request.url.split("/")[-2]
        # Headers are bytes once a request is signed.
        kind = request.headers["X-Amz-Invocation-Type"]
        self.invoked.append((unquote(function), kind.decode() if isinstance(kind, bytes) else kind, request.body))
        return 202, {"x-amzn-requestid": f"invoke-{len(self.invoked)}"}, ""

    @staticmethod
    def _start_callback(parameters: dict[str, Any]) -> HttpAnswer:
        """Answer StartSyncExecution, which moto lacks."""
        execution = engine.run_in_moto(
            parameters["stateMachineArn"], json.loads(parameters["input"]), parameters["name"]
        )
        answer = {
            "executionArn": execution.arn,
            "status": execution.status,
            "startDate": 0,
            "stopDate": 0,
            **({"output": json.dumps(execution.output)} if execution.output else {}),
        }
        return 200, {}, json.dumps(answer)


class Sentry:
    """Receives envelopes as Sentry does and keeps their events."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.status = 200
        self.unanswered = 0
        self.delay_seconds = 0.0
        self.events: list[dict[str, Any]] = []

    def recover(self) -> None:
        self.status = 200
        self.unanswered = 0
        self.delay_seconds = 0


@contextmanager
def serve_sentry() -> Iterator[Sentry]:
    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            envelope = self.rfile.read(int(self.headers["Content-Length"]))
            if sentry.status == 200:
                sentry.events.append(json.loads(envelope.splitlines()[2]))
            if sentry.unanswered:
                sentry.unanswered -= 1
                return
            time.sleep(sentry.delay_seconds)
            self.send_response(sentry.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    sentry = Sentry(f"http://key@127.0.0.1:{server.server_port}/1")
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield sentry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Workflow:
    """The state machines and the account that they run in."""

    def __init__(self, handlers: dict[str, Handler], waits: list[float], sentry: Sentry) -> None:
        self.functions = Lambda(handlers)
        self.aws = AwsCalls()
        self.sentry = sentry
        self._waits = waits
        self._machine_arn = engine.create_machine(client("stepfunctions"), engine.CALLBACK)
        self.healing_arn = engine.create_machine(client("stepfunctions"), engine.HEALING)

    def run(self, execution_input: Any) -> engine.Execution:
        self._waits.clear()
        self.functions.attempts.clear()
        execution = engine.run_in_moto(self._machine_arn, execution_input)
        return replace(execution, attempts=self.functions.attempts.copy(), waits=self._waits.copy())

    def deploy(self, **parameters: str) -> None:
        """Deploy the callback workflow with parameters other than the template's defaults."""
        definition = json.dumps(engine.machine("callback", **parameters).definition)
        client("stepfunctions").update_state_machine(stateMachineArn=self._machine_arn, definition=definition)

    def heal(self, **selection: Any) -> engine.Execution:
        """Run the healing workflow: as the schedule does, or as an operator does with a selection."""
        return engine.run_in_moto(self.healing_arn, selection)

    def fail_process_paid(self, dispatch: int = 0, error: str = "RuntimeError") -> bool:
        """Let process-paid fail for good for a dispatch, by default the latest.

        Runs ReopenPayment and the reports that it starts. Returns whether it handled Lambda's message.
        """
        number = dispatch or len(self.dispatched)
        invocation = {
            "requestContext": {
                "requestId": f"invoke-{number}",
                "condition": "RetriesExhausted",
                "approximateInvokeCount": 3,
            },
            "requestPayload": json.loads(self.dispatched[number - 1][2]),
            "responsePayload": {"errorType": "RuntimeError", "errorMessage": error},
        }
        message = {"messageId": "message-1", "body": json.dumps(invocation)}
        dispatches = len(self.dispatched)
        answer = self.functions.invoke({"FunctionName": REOPEN_PAYMENT, "Payload": json.dumps({"Records": [message]})})
        for report, _, payload in self.dispatched[dispatches:]:
            self.functions.invoke({"FunctionName": report, "Payload": payload})
        del self.dispatched[dispatches:]
        return bool(answer["Payload"] == {"batchItemFailures": []})

    def pass_time(self, minutes: int = 60) -> None:
        """Move the deadlines in the tables and of the parked messages closer by that many minutes."""
        for message in self.parked:
            message.visible_at -= minutes * 60_000
        for row in self.errors:
            if "queue" in row:
                _bring_forward(ERROR_TABLE, row, "queuedAt", _sooner(row["queuedAt"], minutes))
        for payment in self.payments:
            if "claimedUntil" in payment:
                _bring_forward(LEDGER_TABLE, payment, "claimedUntil", _sooner(payment["claimedUntil"], minutes))

    def expire_claims(self) -> None:
        """Expire all claims on payments, but none before the function that holds it has ended."""
        with self.functions.idle("InvokeProcessPaid"):
            for payment in self.payments:
                if "claimedUntil" in payment:
                    _bring_forward(LEDGER_TABLE, payment, "claimedUntil", times.iso(LONG_AGO))

    def abort_callback(self) -> None:
        """Abort the callback execution that is running: it reports nothing."""
        _abort(self._machine_arn)

    def abort_healing(self) -> None:
        """Abort the healing execution that is running: it reports nothing."""
        _abort(self.healing_arn)

    @property
    def statuses(self) -> list[str]:
        """How the executions of both workflows ended, redrives included."""
        arns = (self._machine_arn, self.healing_arn)
        return [execution.status for arn in arns for execution in _executions(arn)]

    def recover(self) -> None:
        """End all faults."""
        for part in (self.functions, self.aws, self.sentry):
            part.recover()

    @property
    def records(self) -> list[dict[str, Any]]:
        return _items(RECORD_TABLE)

    @property
    def errors(self) -> list[dict[str, Any]]:
        return _items(ERROR_TABLE)

    @property
    def payments(self) -> list[dict[str, Any]]:
        return _items(LEDGER_TABLE)

    @property
    def parked(self) -> list[Any]:
        """The messages in the queue of parked deliveries, also those that were received a moment ago."""
        return list(_parked_queue()._messages)

    def purge_parked(self) -> None:
        """Forget all parked deliveries."""
        _parked_queue()._messages.clear()

    @property
    def mails(self) -> list[Any]:
        return list(ses_backends[ACCOUNT][REGION].sent_messages)

    @property
    def dispatched(self) -> list[tuple[str, str, bytes]]:
        """The invocations that a handler made: function, invocation type, payload."""
        return self.aws.invoked


def _parked_queue() -> Any:
    return sqs_backends[ACCOUNT][REGION].queues[PARKED_QUEUE.rpartition("/")[2]]


def _abort(machine_arn: str) -> None:
    for execution in _executions(machine_arn):
        if execution.status == "RUNNING":
            stepfunctions_parser_backends[ACCOUNT][REGION].stop_execution(execution.execution_arn)


def _executions(machine_arn: str) -> list[Any]:
    found: list[Any] = stepfunctions_parser_backends[ACCOUNT][REGION].describe_state_machine(machine_arn).executions
    return found


def _items(table_name: str) -> list[dict[str, Any]]:
    token = is_test_calling.set(True)
    found: list[dict[str, Any]] = _table(table_name).scan()["Items"]
    is_test_calling.reset(token)
    return found


def _sooner(moment: str, minutes: int) -> str:
    return times.iso(datetime.fromisoformat(moment) - timedelta(minutes=minutes))


def _bring_forward(table_name: str, item: dict[str, Any], attribute: str, moment: str) -> None:
    """Change a deadline of an item, unless another thread has just changed it."""
    token = is_test_calling.set(True)
    with suppress(client("dynamodb").exceptions.ConditionalCheckFailedException):
        _table(table_name).update_item(
            Key={key["AttributeName"]: item[key["AttributeName"]] for key in _table(table_name).key_schema},
            UpdateExpression="SET #deadline = :new",
            ConditionExpression="#deadline = :old",
            ExpressionAttributeNames={"#deadline": attribute},
            ExpressionAttributeValues={":new": moment, ":old": item[attribute]},
        )
    is_test_calling.reset(token)


@cache
def _table(name: str) -> Any:
    return boto3.resource("dynamodb").Table(name)
