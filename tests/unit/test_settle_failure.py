import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from pynamodb.exceptions import DoesNotExist

from callbacks import times
from callbacks.queues import AUTOMATIC, Lane, lane_of
from tests.unit.kit import BeforeCall, Json, Load, Log, Put, Table, Task, from_now, items, only


@pytest.fixture
def task(load: Load, tables: dict[str, str]) -> Task:
    return load("settle_failure", ERROR_LOG_TABLE=tables["CallbackErrorLogTable"])


@pytest.fixture
def claimed(failed: Put) -> Put:
    """Put a failure into the error log that is being redriven for the first time."""
    claim = {"status": "redriven", "attempts": 1, "queuedAt": from_now(minutes=5)}
    return lambda **changes: failed(**{**claim, **changes})


def waits_in(error_log: Table) -> Lane | None:
    """Return the lane in which the failure waits; in those that nobody redrives, since its first failure."""
    item = only(error_log)
    lane = lane_of(item.get("queue"))
    if lane not in AUTOMATIC:
        assert item.get("queuedAt") == (item["occurredAt"] if lane else None)
    return lane


def answered(status: int, **body: Any) -> Json:
    """What RunCallback returns of an execution that succeeded."""
    output = {"statusCode": status, "body": json.dumps(body), "isDone": status == 200}
    return {"Status": "SUCCEEDED", "Output": json.dumps(output)}


DONE = answered(200, success=True, message="BankApp callback recorded", orderId="482500007436")
FAILED = answered(500, success=False, error="Internal error, request id 8f7e6d5c", message="Failed to process")
TIMED_OUT = {"Status": "TIMED_OUT", "Output": None}


def event(run: Json, attempt: int = 1) -> Json:
    """The input of the state."""
    return {"requestId": "8f7e6d5c", "attempt": attempt, "lane": "healing", "isManual": False, "run": run}


# The outcome


def test_a_delivery_that_was_processed_is_resolved(task: Task, error_log: Table, claimed: Put) -> None:
    before = claimed()
    assert task.handler(event(DONE), None) == {
        "requestId": "8f7e6d5c",
        "status": "resolved",
        "attempts": 1,
        "lastResult": "200 BankApp callback recorded",
        "report": None,
    }
    del before["queue"], before["queuedAt"]
    assert only(error_log) == {**before, "status": "resolved", "lastResult": "200 BankApp callback recorded"}


@pytest.mark.parametrize(
    ("run", "result"),
    [
        (FAILED, "500 Internal error, request id 8f7e6d5c"),
        (answered(500, success=False, error="orderId: is missing", message="no"), "500 orderId: is missing"),
        (answered(500, success=False, message="no"), "500 no"),
        (answered(202, message="Accepted"), "202 Accepted"),
        (TIMED_OUT, "TIMED_OUT"),
        ({"Status": "FAILED", "Output": None}, "FAILED"),
        # Only the output of an execution that succeeded counts.
        ({"Status": "FAILED", "Output": DONE["Output"]}, "FAILED"),
        ({"Status": "SUCCEEDED", "Output": None}, "SUCCEEDED"),
        ({"Status": "SUCCEEDED", "Output": ""}, "SUCCEEDED"),
        ({"Status": "TIMED_OUT"}, "TIMED_OUT"),
    ],
)
def test_a_delivery_that_fails_again_stays_open_with_its_answer(
    task: Task, error_log: Table, claimed: Put, run: Json, result: str
) -> None:
    claimed()
    outcome = task.handler(event(run), None)
    assert (outcome["status"], outcome["attempts"], outcome["lastResult"]) == ("open", 1, result)
    item = only(error_log)
    assert (item["status"], item["attempts"], item["lastResult"]) == ("open", 1, result)


@pytest.mark.parametrize(
    ("lane", "attempt", "minutes"),
    [("healing", 1, 10), ("healing", 2, 20), ("healing", 7, 640), ("unconfirmed", 2, 20)],
)
def test_a_delivery_that_fails_again_is_due_in_its_lane_after_twice_the_last_delay(
    task: Task, error_log: Table, claimed: Put, lane: str, attempt: int, minutes: int
) -> None:
    claimed(attempts=attempt, lane=lane)
    pause = timedelta(minutes=minutes)
    earliest = times.now() + pause - timedelta(milliseconds=1)
    task.handler(event(FAILED, attempt), None)
    assert earliest <= datetime.fromisoformat(only(error_log)["queuedAt"]) <= times.now() + pause
    assert waits_in(error_log) == lane


@pytest.mark.parametrize("run", [FAILED, TIMED_OUT], ids=["failed", "timed out"])
@pytest.mark.parametrize(("lane", "attempt"), [("healing", 8), ("healing", 9), ("unconfirmed", 3)])
def test_a_delivery_whose_last_attempt_fails_is_given_up(
    task: Task, error_log: Table, claimed: Put, lane: str, attempt: int, run: Json
) -> None:
    claimed(attempts=attempt, lane=lane)
    assert task.handler(event(run, attempt), None)["status"] == "given up"
    assert only(error_log)["status"] == "given up"
    assert waits_in(error_log) == Lane.GIVEN_UP


def test_a_delivery_that_cannot_be_redriven_is_given_up_at_any_attempt(
    task: Task, error_log: Table, claimed: Put
) -> None:
    claimed()
    outcome = task.handler(event({"reason": "The delivery is too large to redrive"}), None)
    assert (outcome["status"], outcome["lastResult"]) == ("given up", "The delivery is too large to redrive")
    assert waits_in(error_log) == Lane.GIVEN_UP


def test_a_delivery_whose_last_attempt_succeeds_is_resolved(task: Task, error_log: Table, claimed: Put) -> None:
    claimed(attempts=8)
    assert task.handler(event(DONE, 8), None)["status"] == "resolved"
    assert only(error_log)["status"] == "resolved"


def test_a_payment_without_a_confirmed_dispatch_is_not_resolved(task: Task, error_log: Table, claimed: Put) -> None:
    claimed()
    output = json.loads(DONE["Output"]) | {"isDone": False}
    assert task.handler(event({**DONE, "Output": json.dumps(output)}), None)["status"] == "open"
    assert waits_in(error_log) == Lane.HEALING


def test_an_execution_that_was_cut_off_is_no_refusal(task: Task, error_log: Table, claimed: Put) -> None:
    claimed(error="InvalidCallback")
    assert task.handler(event(TIMED_OUT), None)["lastResult"] == "TIMED_OUT"
    assert waits_in(error_log) == Lane.HEALING


@pytest.mark.parametrize("attempt", [1, 8])
@pytest.mark.parametrize("error", ["InvalidCallback", "PaymentConflict"])
def test_a_refused_delivery_waits_for_an_operator(
    task: Task, error_log: Table, claimed: Put, error: str, attempt: int
) -> None:
    claimed(error=error, attempts=attempt)
    assert task.handler(event(FAILED, attempt), None)["status"] == "open"
    assert only(error_log)["status"] == "open"
    assert waits_in(error_log) == Lane.OPERATOR


def test_a_delivery_that_was_refused_and_is_now_accepted_is_resolved(
    task: Task, error_log: Table, claimed: Put
) -> None:
    claimed(error="InvalidCallback")
    assert task.handler(event(DONE), None)["status"] == "resolved"
    assert only(error_log)["status"] == "resolved"


def test_the_error_that_the_redrive_itself_reported_decides(
    load: Load, task: Task, error_log: Table, claimed: Put, failure: Json
) -> None:
    claimed()
    failure["report"]["failure"] = {"InvokeProcessPaid": {"Error": "PaymentConflict", "Cause": ""}}
    load("write_error_log").handler(failure, None)
    task.handler(event(FAILED), None)
    item = only(error_log)
    assert (item["status"], item["error"], waits_in(error_log)) == ("open", "PaymentConflict", Lane.OPERATOR)


@pytest.mark.parametrize("run", [DONE, TIMED_OUT], ids=["done", "timed out"])
@pytest.mark.parametrize("attempt", [1, 8])
def test_settling_a_failure_twice_has_the_same_outcome(
    task: Task, error_log: Table, claimed: Put, run: Json, attempt: int
) -> None:
    claimed(attempts=attempt)
    first = task.handler(event(run, attempt), None)
    item = only(error_log)
    assert task.handler(event(run, attempt), None) == first
    again = only(error_log)
    assert ("queuedAt" in again) == ("queuedAt" in item)
    assert again == {**item, **({"queuedAt": again["queuedAt"]} if "queuedAt" in item else {})}


# Whether the attempt was started

THROTTLED = {"Error": "Sfn.ThrottlingException", "Cause": "no (Service: Sfn, Status Code: 400, Request ID: 8f5e)"}
NOT_STARTED = [
    THROTTLED,
    {"Error": "Sfn.SfnException", "Cause": "Rate exceeded (Service: Sfn, Status Code: 400, Request ID: 8f5e)"},
    {"Error": "Sfn.SfnException", "Cause": "ExecutionLimitExceeded"},
    {"Error": "Sfn.SfnException", "Cause": "User: arn is not authorized to perform: states:StartSyncExecution"},
    {"Error": "Sfn.TooManyRequestsException", "Cause": ""},
    {"Error": "Sfn.AccessDeniedException", "Cause": "no"},
    {"Error": "Sfn.StateMachineDoesNotExistException", "Cause": "State Machine Does Not Exist"},
    {"Error": "Sfn.StateMachineDeletingException", "Cause": "no"},
    {"Error": "Sfn.KmsInvalidStateException", "Cause": "no"},
]


@pytest.mark.parametrize("run", NOT_STARTED, ids=str)
@pytest.mark.parametrize(("lane", "attempt"), [("healing", 1), ("healing", 8), ("unconfirmed", 3)])
def test_an_attempt_that_was_not_started_does_not_count_and_is_made_again_soon(
    task: Task, error_log: Table, claimed: Put, run: Json, lane: str, attempt: int
) -> None:
    claimed(attempts=attempt, lane=lane, error="InvalidCallback")
    outcome = task.handler(event(run, attempt), None)
    assert outcome == {
        "requestId": "8f7e6d5c",
        "status": "not started",
        "attempts": attempt - 1,
        "lastResult": run["Error"],
        "report": None,
    }
    item = only(error_log)
    assert (item["status"], item["attempts"], waits_in(error_log)) == ("open", attempt - 1, lane)
    assert from_now(seconds=50) < item["queuedAt"] <= from_now(minutes=1)
    # The answer was lost, and the state tries again.
    assert task.handler(event(run, attempt), None) == outcome
    assert only(error_log) == item


@pytest.mark.parametrize(
    "run",
    [
        {"Error": "States.Timeout", "Cause": ""},
        {"Error": "Sfn.SfnException", "Cause": "Internal failure (Service: Sfn, Status Code: 500, Request ID: 8f5e)"},
        # These are about the delivery: without an end they would be tried forever.
        {"Error": "Sfn.InvalidNameException", "Cause": "Invalid Name"},
        {"Error": "Sfn.InvalidExecutionInputException", "Cause": "Invalid Input"},
        # The execution's own error: some of it may have been done.
        {"Status": "FAILED", "Error": "Lambda.TooManyRequestsException", "Cause": "Rate exceeded"},
    ],
    ids=str,
)
def test_an_attempt_that_was_or_may_have_been_started_counts(
    task: Task, error_log: Table, claimed: Put, run: Json
) -> None:
    claimed(attempts=3)
    outcome = task.handler(event(run, 3), None)
    assert (outcome["status"], outcome["attempts"]) == ("open", 3)
    item = only(error_log)
    assert (item["status"], item["attempts"], waits_in(error_log)) == ("open", 3, Lane.HEALING)


# An operator's decision


def decision(attempt: int, action: str = "again") -> Json:
    return {
        "id": "1",
        "action": action,
        "by": "nan",
        "reason": "r",
        "at": "2026-11-22T10:00:00.000Z",
        "attempt": attempt,
    }


@pytest.mark.parametrize("run", [FAILED, TIMED_OUT, THROTTLED], ids=["failed", "late", "not started"])
@pytest.mark.parametrize("attempt", [1, 8])
def test_a_decided_redrive_that_fails_waits_for_the_next_decision(
    task: Task, error_log: Table, claimed: Put, run: Json, attempt: int
) -> None:
    claimed(attempts=attempt, decisions=[decision(attempt)])
    assert task.handler(event(run, attempt), None)["status"] == "open"
    assert (only(error_log)["attempts"], waits_in(error_log)) == (attempt, Lane.OPERATOR)


def test_a_decided_redrive_that_succeeds_is_resolved(task: Task, error_log: Table, claimed: Put) -> None:
    claimed(decisions=[decision(1)])
    assert task.handler(event(DONE), None)["status"] == "resolved"
    assert [entry["id"] for entry in only(error_log)["decisions"]] == ["1"]


@pytest.mark.parametrize(("attempt", "status", "lane"), [(2, "open", Lane.HEALING), (8, "given up", Lane.GIVEN_UP)])
def test_a_decision_counts_for_its_own_redrive_only(
    task: Task, error_log: Table, claimed: Put, attempt: int, status: str, lane: Lane
) -> None:
    claimed(attempts=attempt, decisions=[decision(1)])
    assert task.handler(event(FAILED, attempt), None)["status"] == status
    assert waits_in(error_log) == lane


def test_a_decided_redrive_without_a_result_is_given_up(task: Task, claimed: Put) -> None:
    claimed(decisions=[decision(1)])
    assert task.handler(event({"reason": "The last attempt left no result"}), None)["status"] == "given up"


@pytest.mark.parametrize("attempt", [0, 8])
def test_a_dismissed_failure_is_resolved(task: Task, error_log: Table, claimed: Put, attempt: int) -> None:
    claimed(attempts=attempt, error="PaymentConflict", decisions=[decision(attempt, "dismiss")])
    outcome = task.handler(event({"dismissal": "dismissed by nan"}, attempt), None)
    assert (outcome["status"], outcome["lastResult"]) == ("resolved", "dismissed by nan")
    assert waits_in(error_log) is None


# A later run


@pytest.mark.parametrize("run", [DONE, FAILED], ids=["done", "failed"])
@pytest.mark.parametrize("status", ["redriven", "resolved", "given up"])
def test_a_result_that_arrives_after_a_later_run_changes_nothing(
    task: Task, error_log: Table, claimed: Put, status: str, run: Json
) -> None:
    before = claimed(status=status, attempts=2, lastResult="200 done")
    assert task.handler(event(run), None) == {
        "requestId": "8f7e6d5c",
        "status": status,
        "attempts": 2,
        "lastResult": "200 done",
        "report": None,
    }
    assert only(error_log) == before


def test_a_run_that_takes_over_meanwhile_keeps_what_it_wrote(
    task: Task, error_log: Table, claimed: Put, before_call: BeforeCall
) -> None:
    claimed()
    later: Json = {}
    before_call(task.ErrorLog, "UpdateItem", lambda: later.update(claimed(attempts=2)))
    assert task.handler(event(DONE), None)["requestId"] == "8f7e6d5c"
    assert only(error_log) == later


# The log


def test_the_log_has_the_outcome_but_nothing_of_the_delivery(task: Task, claimed: Put, log: Log) -> None:
    claimed(event=json.dumps({"body": '{"userId": "somebody"}'}))
    task.handler(event(DONE), None)
    (line,) = log()
    expected = {
        "message": "Failure settled",
        "requestId": "8f7e6d5c",
        "orderId": "482500007436",
        "status": "resolved",
    }
    assert line.items() >= expected.items()
    assert "somebody" not in json.dumps(line)


def test_a_delivery_without_an_order_is_settled(task: Task, claimed: Put) -> None:
    claimed(orderId=None)
    assert task.handler(event(DONE), None)["status"] == "resolved"


def test_an_unknown_failure_is_an_error(task: Task, error_log: Table) -> None:
    with pytest.raises(DoesNotExist):
        task.handler(event(DONE), None)
    assert items(error_log) == []


# What is reported to operators


@pytest.mark.parametrize(
    ("changes", "run", "is_manual", "report"),
    [
        ({"attempts": 8}, FAILED, False, "GivenUp"),
        ({"attempts": 8}, FAILED, True, "GivenUp"),
        ({"attempts": 3, "lane": "unconfirmed", "queue": "BankApp#0#unconfirmed"}, FAILED, False, "UnconfirmedGivenUp"),
        ({}, FAILED, False, None),
        ({}, DONE, False, None),
        # It was accepted before: only then does healing redrive it.
        ({"error": "InvalidCallback"}, FAILED, False, "GivenUp"),
        # The callback came from anybody: it was not confirmed before it was refused.
        ({"error": "PaymentMismatch", "queue": "BankApp#0#unconfirmed"}, FAILED, False, "UnconfirmedGivenUp"),
        # The operator who asked for the redrive sees the outcome.
        ({"error": "InvalidCallback"}, FAILED, True, None),
        # The error is that of an earlier redrive.
        ({"error": "InvalidCallback"}, TIMED_OUT, False, None),
        # No stranger can cause it, so its own report stands out.
        ({"error": "DispatchUndecided"}, FAILED, False, None),
    ],
)
def test_a_failure_that_healing_no_longer_redrives_is_reported(
    task: Task, claimed: Put, changes: Json, run: Json, is_manual: bool, report: str | None
) -> None:
    row = claimed(**{"lane": "healing", "queue": "BankApp#0#healing", "queuedAt": from_now(minutes=5), **changes})
    settled = {**event(run, row["attempts"]), "lane": lane_of(row["queue"]), "isManual": is_manual}
    assert task.handler(settled, None)["report"] == report
    # The retry of an attempt whose answer was lost.
    assert task.handler(settled, None)["report"] == report
