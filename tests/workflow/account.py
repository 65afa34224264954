"""The AWS account around the state machines: the functions' handlers, the tables, the mails, and what can go wrong."""

import importlib
import inspect
import json
import sys
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Lock, Thread
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ReadTimeoutError
from moto.core.models import botocore_stubber
from moto.ses.models import ses_backends

from callbacks import times
from local.stack import ROOT
from tests.sources import FUNCTIONS
from tests.workflow import engine
from tests.workflow.engine import ACCOUNT, CLAIM_TABLE, ERROR_TABLE, RECORD_TABLE, REGION, resolved

# Calls to AWS, each by what its request says.
SAVE_RECORD = ("PutItem", f'"TableName": "{RECORD_TABLE}"')
SAVE_ERROR = ("UpdateItem", f'"TableName": "{ERROR_TABLE}"')
START_CALLBACK = ("StartSyncExecution",)
SEND_MAIL = ("Action=SendEmail",)
INVOKE = ("/invocations",)

Handler = Callable[[Any, object], Any]
HttpAnswer = tuple[int, dict[str, str], str]

# What Step Functions hears of a process that died.
PROCESS_DIED = {
    "errorType": "Runtime.ExitError",
    "errorMessage": "RequestId: 8f5e Error: Runtime exited with error: signal: killed",
}

# The state whose function is at work in this thread.
at_work: ContextVar[str] = ContextVar("at_work", default="")

# The same for all tests, because making a client takes longer than most of what is done with it. It makes a call once:
# how often a state's call is made is for the state to say.
client: Callable[[str], Any] = cache(partial(boto3.client, config=Config(retries={"total_max_attempts": 1})))


class ProcessKilled(BaseException):
    """The end of a function's process; nothing in the function can catch it."""


def kill_process() -> None:
    raise ProcessKilled


def load_handlers(**parameters: str) -> dict[str, Handler]:
    """Return each function's handler by function ARN, imported afresh under the environment that the template gives it.

    Afresh, because the functions read their environment when they are imported, and other tests import them too.
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
    """Answers lambda:invoke as Lambda does: JSON in, JSON out, an exception as a FunctionError."""

    def __init__(self, handlers: dict[str, Handler]) -> None:
        self._handlers = handlers
        self._faults: defaultdict[str, list[Exception | dict[str, str]]] = defaultdict(list)
        self._lost: set[str] = set()
        self._endings: dict[str, Callable[[], None]] = {}
        self._working: Counter[str] = Counter()
        self._changed = Condition()
        self.attempts: Counter[str] = Counter()
        self.answers: dict[str, Any] = {}

    def fail(self, state: str, fault: Exception | dict[str, str], times: int = 99) -> None:
        """Let the state's function fail: Lambda itself with an exception, the function with a FunctionError payload."""
        self._faults[state] += [fault] * times

    def imported_by(self, state: str, name: str) -> Any:
        """Return the module that the state's function imported by that name."""
        (handler,) = (handler for arn, handler in self._handlers.items() if arn.split("-")[-2] == state)
        return inspect.unwrap(handler).__globals__[name]

    def lose_answer(self, state: str) -> None:
        """Let the state's function do its work once, and Step Functions not hear of it."""
        self._lost.add(state)

    def end_with(self, state: str, ending: Callable[[], None]) -> None:
        """Let something happen as soon as the state's function has done its work once."""
        self._endings[state] = ending

    def recover(self) -> None:
        self._faults.clear()
        self._lost.clear()
        self._endings.clear()

    @contextmanager
    def at_rest(self, state: str) -> Iterator[None]:
        """Wait until nothing of the state's function is at work, and let nothing of it begin meanwhile."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._working[state], timeout=30)
            yield

    @contextmanager
    def _at_work(self, state: str) -> Iterator[None]:
        with self._changed:
            self._working[state] += 1
        token = at_work.set(state)
        try:
            yield
        finally:
            at_work.reset(token)
            with self._changed:
                self._working[state] -= 1
                self._changed.notify_all()

    def invoke(self, parameters: dict[str, Any], **_: object) -> dict[str, Any]:
        state = parameters["FunctionName"].split("-")[-2]
        with self._at_work(state):
            answer = self._answer(state, parameters)
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
        context = SimpleNamespace(
            aws_request_id="8f5e",
            function_name=parameters["FunctionName"],
            # Long enough that a slow machine changes nothing.
            get_remaining_time_in_millis=lambda: 60_000,
        )
        try:
            result = self._handlers[parameters["FunctionName"]](json.loads(parameters["Payload"]), context)
            payload = json.loads(json.dumps(result, allow_nan=False))
            self._endings.pop(state, lambda: None)()
        except ProcessKilled:
            return {"StatusCode": 200, "FunctionError": "Unhandled", "Payload": PROCESS_DIED}
        except Exception as error:  # noqa: BLE001 Lambda answers for whatever a handler raises
            trace = traceback.format_tb(error.__traceback__)
            payload = {"errorMessage": str(error), "errorType": type(error).__name__, "requestId": "8f5e"}
            return {"StatusCode": 200, "FunctionError": "Unhandled", "Payload": {**payload, "stackTrace": trace}}
        self.answers[state] = payload
        return {"StatusCode": 200, "ExecutedVersion": "$LATEST", "Payload": payload}


def lambda_error(code: str, status: int = 500) -> ClientError:
    """Return what Step Functions gets where Lambda itself does not take an invocation."""
    answer = {
        "Error": {"Code": code, "Message": code},
        "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "8f5e"},
    }
    return ClientError(answer, "Invoke")  # type: ignore[arg-type]


class Wire:
    """All that goes to AWS, met at moto's botocore hook: what a test wants to fail fails, the rest is left to moto."""

    def __init__(self) -> None:
        self._moto = botocore_stubber.process_request
        self._one_at_a_time = Lock()
        self.start_callback: Callable[[dict[str, Any]], engine.Execution] | None = None
        self._faults: list[tuple[tuple[str, ...], Callable[[Any], HttpAnswer]]] = []
        self.invoked: list[tuple[str, str, bytes]] = []
        self.met: list[tuple[str, ...]] = []

    def refuse(self, call: tuple[str, ...], code: str, status: int = 400, times: int = 99) -> None:
        """Let AWS answer the next calls with an error."""
        xml = f"<ErrorResponse><Error><Code>{code}</Code><Message>{code}</Message></Error></ErrorResponse>"
        body = xml if call == SEND_MAIL else json.dumps({"__type": code, "message": code})
        self._faults += [
            (call, lambda _: (status, {"x-amzn-errortype": code, "x-amzn-requestid": "8f5e"}, body))
        ] * times

    def lose_answer(self, call: tuple[str, ...], times: int = 99) -> None:
        """Let AWS do what the next calls ask for, and its answers get lost on the way back."""

        def lost(request: Any) -> HttpAnswer:
            self._do(request)
            raise ReadTimeoutError(endpoint_url=request.url)

        self._faults += [(call, lost)] * times

    def time_out(self, call: tuple[str, ...], times: int = 99) -> None:
        """Let the next calls never reach AWS, and nobody say so."""

        def unanswered(request: Any) -> HttpAnswer:
            raise ReadTimeoutError(endpoint_url=request.url)

        self._faults += [(call, unanswered)] * times

    def follow(self, call: tuple[str, ...], happen: Callable[[], None]) -> None:
        """Let AWS do what the next call asks for, and something happen before its answer is there."""

        def followed(request: Any) -> HttpAnswer:
            answer: HttpAnswer = self._do(request)
            happen()
            return answer

        self._faults.append((call, followed))

    def recover(self) -> None:
        self._faults.clear()

    def process_request(self, request: Any) -> Any:
        body = request.body if isinstance(request.body, bytes) else str(request.body).encode()
        said = f"in {at_work.get()}: {request.url} {request.headers.get('X-Amz-Target')} {body.decode()}"
        for fault in self._faults:
            if all(part in said for part in fault[0]):
                self._faults.remove(fault)
                self.met.append(fault[0])
                return fault[1](request)
        return self._do(request)

    def _do(self, request: Any) -> Any:
        if START_CALLBACK[0] in str(request.headers.get("X-Amz-Target")):
            return self._start_callback(json.loads(request.body))
        if "dynamodb" in request.url:
            # A write and its condition are one; moto lets other threads in between.
            with self._one_at_a_time:
                return self._moto(request)
        if INVOKE[0] not in request.url:
            return self._moto(request)
        function = request.url.split("/")[-2]
        # Headers are bytes once a request is signed.
        kind = request.headers["X-Amz-Invocation-Type"]
        self.invoked.append((function, kind.decode() if isinstance(kind, bytes) else kind, request.body))
        return 202, {}, ""

    def _start_callback(self, parameters: dict[str, Any]) -> HttpAnswer:
        """Moto has no StartSyncExecution: start the execution and wait for it."""
        assert self.start_callback
        execution = self.start_callback(parameters)
        answer = {
            "executionArn": execution.arn,
            "status": execution.status,
            "startDate": 0,
            "stopDate": 0,
            **({"output": json.dumps(execution.output)} if execution.output else {}),
        }
        return 200, {}, json.dumps(answer)


class Sentry:
    """Takes envelopes as Sentry does and keeps their events."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.status = 200
        self.unanswered = 0
        self.events: list[dict[str, Any]] = []

    def recover(self) -> None:
        self.status = 200
        self.unanswered = 0


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
    """The state machines, and the account that they work in."""

    def __init__(self, handlers: dict[str, Handler], waits: list[float], sentry: Sentry) -> None:
        self.functions = Lambda(handlers)
        self.wire = Wire()
        self.sentry = sentry
        self._waits = waits
        self._machine_arn = engine.create_machine(client("stepfunctions"), engine.CALLBACK)
        self.healing_arn = engine.create_machine(client("stepfunctions"), engine.HEALING)
        self.wire.start_callback = self._start_callback

    def run(self, execution_input: Any, **patience: float) -> engine.Execution:
        self._waits.clear()
        self.functions.attempts.clear()
        execution = engine.run(client("stepfunctions"), self._machine_arn, execution_input, **patience)
        return replace(execution, attempts=self.functions.attempts.copy(), waits=self._waits.copy())

    def deploy(self, **parameters: str) -> None:
        """Deploy the callback workflow with other parameters than the template's defaults."""
        definition = json.dumps(engine.machine("callback", **parameters).definition)
        client("stepfunctions").update_state_machine(stateMachineArn=self._machine_arn, definition=definition)

    def heal(self, **selection: Any) -> engine.Execution:
        """Run the healing workflow: as the schedule does, or as a person who names what is to be run again."""
        return engine.run(client("stepfunctions"), self.healing_arn, selection)

    def pass_time(self, minutes: int = 60) -> None:
        """Bring the deadlines that stand in the tables nearer by so much."""
        for row in self.errors:
            if "nextAttemptAt" in row:
                sooner = datetime.fromisoformat(row["nextAttemptAt"]) - timedelta(minutes=minutes)
                _table(ERROR_TABLE).put_item(Item={**row, "nextAttemptAt": times.iso(sooner)})
        for claim in _items(CLAIM_TABLE):
            if "in_progress_expiration" in claim:
                sooner_ms = claim["in_progress_expiration"] - minutes * 60_000
                _table(CLAIM_TABLE).put_item(Item={**claim, "in_progress_expiration": sooner_ms})

    def end_claims(self) -> None:
        """Let all claims on payments end that no dispatch has followed yet, each after the function that held it."""
        with self.functions.at_rest("InvokeProcessPaid"):
            for claim in _items(CLAIM_TABLE):
                if claim["status"] == "INPROGRESS":
                    _table(CLAIM_TABLE).put_item(Item={**claim, "in_progress_expiration": 0})

    def lose_callback(self) -> None:
        """Let the callback execution that is running end at this moment, without a word."""
        _stop(self._machine_arn)

    def lose_healing(self) -> None:
        """Let the healing execution that is running end at this moment, without a word."""
        _stop(self.healing_arn)

    def recover(self) -> None:
        """Let all that was made to fail work again."""
        for part in (self.functions, self.wire, self.sentry):
            part.recover()

    def _start_callback(self, parameters: dict[str, Any]) -> engine.Execution:
        return engine.run(
            client("stepfunctions"), parameters["stateMachineArn"], json.loads(parameters["input"]), parameters["name"]
        )

    @property
    def records(self) -> list[dict[str, Any]]:
        return _items(RECORD_TABLE)

    @property
    def errors(self) -> list[dict[str, Any]]:
        return _items(ERROR_TABLE)

    @property
    def mails(self) -> list[Any]:
        return list(ses_backends[ACCOUNT][REGION].sent_messages)

    @property
    def processed(self) -> list[tuple[str, str, bytes]]:
        """The invocations that a handler made: function, invocation type, payload."""
        return self.wire.invoked


def _stop(machine_arn: str) -> None:
    running = client("stepfunctions").list_executions(stateMachineArn=machine_arn, statusFilter="RUNNING")
    for execution in running["executions"]:
        client("stepfunctions").stop_execution(executionArn=execution["executionArn"])


def _items(table_name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _table(table_name).scan()["Items"]
    return found


@cache
def _table(name: str) -> Any:
    return boto3.resource("dynamodb").Table(name)
