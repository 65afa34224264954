"""Named scenarios with mocked tasks, in the format of Step Functions Local, on each available engine."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import BotoCoreError
from moto.stepfunctions.parser.backend import execution as moto_execution
from moto.stepfunctions.parser.backend.execution_worker import ExecutionWorker
from moto.stepfunctions.parser.mocking.mock_config import (
    MockedResponse,
    MockedResponseReturn,
    MockedResponseThrow,
    MockTestCase,
    StateMockedResponses,
)

from callbacks import errors
from tests.outcomes import FAILURE_MESSAGE, body_of
from tests.sources import FUNCTIONS
from tests.workflow.account import Workflow, client
from tests.workflow.engine import CALLBACK, Execution, Machine, create_machine, run
from tests.workflow.paths import CONFIRMED_LATER, CONFLICT, DECLINED, FAILED, INVALID, LOOKED_UP, PAID, SAVED

HERE = Path(__file__).parent
MOCKS = json.loads((HERE / "MockConfigFile.json").read_text())
SCENARIOS: dict[str, dict[str, str]] = MOCKS["StateMachines"][CALLBACK.name]["TestCases"]

RECORDED = {
    "success": True,
    "message": "BankApp callback recorded",
    "orderId": "482500007436",
    "paymentId": "pay_bankapp_123",
    "processing": True,
    "duplicate": False,
}
REFUSED = {
    "success": False,
    "error": "orderId: is missing; amount: must be a number, not a string",
    "message": FAILURE_MESSAGE,
}
CONFLICTING = {
    "success": False,
    "error": "The payment was delivered before with another amount or user",
    "message": FAILURE_MESSAGE,
}
INTERNAL = {"success": False, "error": "Internal error, request id {name}", "message": FAILURE_MESSAGE}

ALL_REPORTS_FAILED = [
    "ReportFailure",
    *("WriteErrorLog", "ParkDelivery", "DeliveryParked"),
    *("ReportToSentry", "SentryFailed"),
    *("SendErrorEmail", "EmailFailed"),
]
# The same paths as in test_callback, for engines on which the real handlers cannot run; None fails as a whole.
EXPECTED: dict[str, tuple[list[str], int | None, dict[str, Any]]] = {
    "HappyPath": (PAID, 200, RECORDED),
    "ConfirmDown": (CONFIRMED_LATER, 200, RECORDED),
    "Declined": (DECLINED, 200, {**RECORDED, "processing": False}),
    "Duplicate": (CONFIRMED_LATER, 200, {**RECORDED, "duplicate": True}),
    "Conflict": (CONFLICT, 500, CONFLICTING),
    "Invalid": (INVALID, 500, REFUSED),
    "InvokeThrottledThenFine": (PAID, 200, RECORDED),
    "SaveDown": ([*SAVED, *FAILED], 500, INTERNAL),
    "InvokeDown": ([*LOOKED_UP, "InvokeProcessPaid", *FAILED], 500, INTERNAL),
    "AllReportsDown": (
        [*SAVED, *ALL_REPORTS_FAILED, "IsLogged?", "FailParked"],
        None,
        {},
    ),
}

Play = Callable[[str], Execution]


@pytest.fixture
def moto(account: None, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> Play:  # noqa: ARG001
    """Moto's interpreter knows the mocks of Step Functions Local, but its API passes no test case to them."""
    machine_arn = create_machine(client("stepfunctions"), CALLBACK)

    def play(scenario: str) -> Execution:
        worker = partial(ExecutionWorker, mock_test_case=mock_test_case(scenario))
        monkeypatch.setattr(moto_execution, "ExecutionWorker", worker)
        return run(client("stepfunctions"), machine_arn, {"body": body_of("paid")})

    return play


def mock_test_case(scenario: str) -> MockTestCase:
    states = [
        StateMockedResponses(state, mock, [mocked_response(*item) for item in MOCKS["MockedResponses"][mock].items()])
        for state, mock in SCENARIOS[scenario].items()
    ]
    return MockTestCase(CALLBACK.name, scenario, states)


def mocked_response(attempts: str, response: dict[str, Any]) -> MockedResponse:
    first, _, last = attempts.partition("-")
    attempt_range = int(first), int(last or first)
    if "Return" in response:
        return MockedResponseReturn(*attempt_range, response["Return"])
    return MockedResponseThrow(*attempt_range, response["Throw"]["Error"], response["Throw"]["Cause"])


@pytest.fixture(scope="session")
def step_functions_local(aws_environment: None) -> Iterator[Play]:  # noqa: ARG001
    """AWS's own engine. Not verified on Docker."""
    for command in ("docker info", "docker compose version"):
        if not shutil.which("docker") or subprocess.run(command.split(), capture_output=True, check=False).returncode:
            pytest.skip(f"AWS Step Functions Local runs in Docker, and `{command}` fails")
    compose = ["docker", "compose", "--file", str(HERE / "compose.yaml")]
    try:
        subprocess.run([*compose, "up", "--detach", "--wait"], check=True)
        local = boto3.client("stepfunctions", endpoint_url="http://127.0.0.1:8083")
        wait_for_answer(local)
        # This engine is older than the field and knows JSONPath only.
        definition = {key: value for key, value in CALLBACK.definition.items() if key != "QueryLanguage"}
        machine_arn = create_machine(local, Machine(CALLBACK.name, definition))
        yield lambda scenario: run(local, f"{machine_arn}#{scenario}", {"body": body_of("paid")}, timeout_seconds=60)
    finally:
        subprocess.run([*compose, "down"], check=True)


def wait_for_answer(local: Any, timeout_seconds: float = 60) -> None:
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            local.list_state_machines()
        except BotoCoreError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


@pytest.fixture(params=["moto", "step_functions_local"])
def play(request: pytest.FixtureRequest) -> Play:
    engine: Play = request.getfixturevalue(request.param)
    return engine


def test_every_scenario_has_an_expectation() -> None:
    assert set(SCENARIOS) == set(EXPECTED)


@pytest.mark.parametrize("scenario", EXPECTED)
def test_a_scenario_takes_its_path_and_gives_its_answer(play: Play, scenario: str) -> None:
    states, status, body = EXPECTED[scenario]

    execution = play(scenario)

    assert execution.states == states
    if status is None:
        assert execution.status == "FAILED"
        return
    error = {"error": body["error"].format(name=execution.name)} if "error" in body else {}
    assert execution.answer == (status, {**body, **error})


def test_the_mocked_tasks_return_what_the_real_ones_return(workflow: Workflow) -> None:
    workflow.run({"body": body_of("paid")})
    workflow.run({"body": body_of("missing-fields")})

    for states in SCENARIOS.values():
        for state, mock in states.items():
            returned = [answer["Return"] for answer in MOCKS["MockedResponses"][mock].values() if "Return" in answer]
            # No state reads what a task other than our functions returns.
            if state not in FUNCTIONS:
                assert returned in ([], [{}])
                continue
            assert all(set(answer["Payload"]) == set(workflow.functions.answers[state]) for answer in returned), mock


def test_the_mocked_tasks_raise_what_the_functions_raise() -> None:
    thrown = {
        answer["Throw"]["Error"]
        for answers in MOCKS["MockedResponses"].values()
        for answer in answers.values()
        if "Throw" in answer
    }
    assert thrown == {
        "DispatchInProgress",
        "DynamoDB.ProvisionedThroughputExceededException",
        "InvalidCallback",
        "Lambda.TooManyRequestsException",
        "PaymentConflict",
        "ServiceUnavailable",
    }
    assert all(hasattr(errors, error) for error in thrown if "." not in error)
