"""Runs the shipped state machines with the real handlers, in this process and without real pauses."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import sentry_sdk
from botocore import endpoint
from botocore.exceptions import ReadTimeoutError
from jsonpath_ng.ext.parser import parse as parse_path
from moto import mock_aws
from moto.core.models import botocore_stubber
from moto.stepfunctions.parser.asl.component.common.error_name.error_equals_decl import ErrorEqualsDecl
from moto.stepfunctions.parser.asl.component.common.path import result_path
from moto.stepfunctions.parser.asl.component.common.retry import jitter_strategy_decl, retrier_decl
from moto.stepfunctions.parser.asl.component.common.timeouts.timeout import EvalTimeoutError
from moto.stepfunctions.parser.asl.component.state.exec import execute_state
from moto.stepfunctions.parser.asl.component.state.exec.state_task import lambda_eval_utils
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service import (
    state_task_service_dynamodb,
    state_task_service_sqs,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_aws_sdk import (
    StateTaskServiceAwsSdk,
)
from moto.stepfunctions.parser.asl.parse.asl_parser import AmazonStateLanguageParser
from moto.stepfunctions.parser.asl.utils import json_path
from moto.stepfunctions.parser.backend.execution_worker import ExecutionWorker
from moto.stepfunctions.parser.utils import TMP_THREADS

from tests.sources import TABLES, table
from tests.workflow import engine
from tests.workflow.account import (
    LONGEST_PAUSE_SECONDS,
    Handler,
    Sentry,
    Workflow,
    client,
    client_patience,
    load_handlers,
    serve_sentry,
    spend,
)
from tests.workflow.genuine import Bank, serve_bank

# Moto parses a definition for each machine and each execution, a path for each use, and creates a client for each call.
# All of these take longer than the execution itself.
parse_definition_once = staticmethod(cache(AmazonStateLanguageParser.parse))
parse_path_once = cache(parse_path)
eval_error_names = ErrorEqualsDecl._eval_body
get_response_of_client = endpoint.Endpoint._get_response  # type: ignore[attr-defined]


@contextmanager
def own_sentry_client() -> Iterator[None]:
    """Restore the earlier client afterwards: the SDK has one per process, and other tests may have set their own."""
    others = sentry_sdk.get_client()
    yield
    sentry_sdk.get_global_scope().set_client(others)


@pytest.fixture(scope="session")
def aws_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", engine.REGION)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.delenv("AWS_PROFILE", raising=False)
        yield


@pytest.fixture(scope="session")
def sentry_server() -> Iterator[Sentry]:
    with serve_sentry() as sentry:
        yield sentry


@pytest.fixture(scope="session")
def loaded(aws_environment: None, sentry_server: Sentry) -> tuple[dict[str, Handler], Any]:  # noqa: ARG001
    """The handlers, and the Sentry client that their import created."""
    with own_sentry_client():
        handlers = load_handlers(
            SentryDsn=sentry_server.dsn,
            # A failure is due at once, a lost execution is old enough to be found, and a run ends after one page.
            RedriveDelayMinutes="0",
            DispatchAgeMinutes="0",
            HealingMinutes="0",
        )
        return handlers, sentry_sdk.get_client()


@pytest.fixture
def sentry(loaded: tuple[dict[str, Handler], Any], sentry_server: Sentry) -> Iterator[Sentry]:
    sentry_server.recover()
    sentry_server.events.clear()
    with own_sentry_client():
        sentry_sdk.get_global_scope().set_client(loaded[1])
        yield sentry_server


class PatientEvent(threading.Event):
    """Waits longer than any TimeoutSeconds: on a slow machine no state times out."""

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002 real time does not count
        return super().wait(120)


def get_response(self: endpoint.Endpoint, *call: Any) -> Any:
    """Make an attempt of a call, and let the fault that it meets know how long the client waits."""
    client_patience.set(self.http_session._timeout.read_timeout)  # type: ignore[attr-defined]
    return get_response_of_client(self, *call)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the interpreter would have slept before each retry; jitter always draws the maximum."""
    seconds: list[float] = []
    monkeypatch.setattr(execute_state, "threading", SimpleNamespace(Event=PatientEvent))
    monkeypatch.setattr(retrier_decl, "time", SimpleNamespace(sleep=seconds.append))
    # A client's own pauses between attempts are random.
    monkeypatch.setattr(endpoint, "time", SimpleNamespace(sleep=lambda _: spend(LONGEST_PAUSE_SECONDS)))
    monkeypatch.setattr(endpoint.Endpoint, "_get_response", get_response)
    monkeypatch.setattr(jitter_strategy_decl, "random", SimpleNamespace(uniform=lambda _, longest: longest))
    return seconds


def eval_sdk_task(task: StateTaskServiceAwsSdk, env: Any, normalised_parameters: dict[str, Any], **_: Any) -> None:
    """Call the SDK with the members' names of Step Functions, which are capitalised; moto knows those of boto3 only.

    If the answer is lost, the state times out; moto ends the execution.
    """
    call = getattr(client(task._get_boto_service_name()), task._get_boto_service_action())
    try:
        answer = call(**{name[0].lower() + name[1:]: value for name, value in normalised_parameters.items()})
    except ReadTimeoutError as error:
        raise EvalTimeoutError from error
    del answer["ResponseMetadata"]
    plain = json.loads(json.dumps(answer, default=str))
    env.stack.append({name[0].upper() + name[1:]: value for name, value in plain.items()})


def client_of_states(service: str, **_: Any) -> Any:
    """Return the client of the states that call a service themselves."""
    return client(service)


def eval_error_equals(declared: ErrorEqualsDecl, env: Any) -> None:
    """Match an error with those declared. On AWS States.ALL does not match these two errors; in moto it does."""
    error = env.stack[-1].error_name
    eval_error_names(declared, env)
    if error in {"States.Runtime", "States.DataLimitExceeded"}:
        env.stack[-1] = any(name.error_name == error for name in declared.error_names)


@pytest.fixture
def account(aws_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:  # noqa: ARG001
    monkeypatch.setattr(AmazonStateLanguageParser, "parse", parse_definition_once)
    monkeypatch.setattr(json_path, "parse", parse_path_once)
    monkeypatch.setattr(result_path, "parse", parse_path_once)
    for service in (state_task_service_dynamodb, state_task_service_sqs):
        monkeypatch.setattr(service, "boto_client_for", client_of_states)
    # The thread that starts an execution also runs it, so that nothing has to poll for its end.
    monkeypatch.setattr(ExecutionWorker, "start", ExecutionWorker._execution_logic)
    monkeypatch.setattr(StateTaskServiceAwsSdk, "_eval_service_task", eval_sdk_task)
    monkeypatch.setattr(ErrorEqualsDecl, "_eval_body", eval_error_equals)
    with mock_aws(config={"stepfunctions": {"execute_state_machine": True}}):
        for name in TABLES:
            client("dynamodb").create_table(**table(name))
        for arguments in engine.queues():
            client("sqs").create_queue(**arguments)
        client("ses").verify_email_identity(EmailAddress=engine.PARAMETERS["EmailFrom"])
        yield
        for thread in TMP_THREADS:
            thread.join(10)
        # A thread that is still running would disturb the next test.
        assert not any(thread.is_alive() for thread in TMP_THREADS)
        TMP_THREADS.clear()


@pytest.fixture
def workflow(
    account: None,  # noqa: ARG001
    loaded: tuple[dict[str, Handler], Any],
    sentry: Sentry,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> Workflow:
    workflow = Workflow(loaded[0], waits, sentry)
    monkeypatch.setattr(lambda_eval_utils, "_invoke_lambda_function", workflow.functions.invoke)
    monkeypatch.setattr(botocore_stubber, "process_request", workflow.aws.process_request)
    return workflow


@pytest.fixture
def claims_expire_before_retries(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let claims expire before each retry that follows a timeout: it comes a second later than the claim can last."""

    def pause(_: float) -> None:
        if workflow.functions.has_timed_out:
            workflow.expire_claims()

    monkeypatch.setattr(retrier_decl, "time", SimpleNamespace(sleep=pause))


@pytest.fixture
def bank() -> Iterator[Bank]:
    with serve_bank() as bank:
        yield bank
