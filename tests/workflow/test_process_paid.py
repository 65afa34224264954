"""A payment for which process-paid fails for good is dispatched again, once for each failure, and not for ever."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.outcomes import body_of
from tests.sources import TEMPLATE
from tests.workflow.account import INVOKE, Call, Workflow, kill_process

DELIVERY: dict[str, Any] = {
    "body": body_of("paid"),
    "requestId": "8f7e6d5c",
    "receivedAt": 1795341600000,
    "sourceIp": "203.0.113.7",
}
ATTEMPTS: int = TEMPLATE["Parameters"]["RedriveAttempts"]["Default"]
# Each write and each report of ReopenPayment, in its order.
CALLS: list[Call] = [
    ("in ReopenPayment:", "UpdateItem", "error-log"),
    ("in ReopenPayment:", "ReportToSentry"),
    ("in ReopenPayment:", "SendErrorEmail"),
    ("in ReopenPayment:", "UpdateItem", "ledger"),
]


def status(workflow: Workflow) -> tuple[str, int]:
    (row,) = workflow.errors
    return row["status"], int(row["attempts"])


def kinds(workflow: Workflow) -> list[str]:
    """Return the errors that were e-mailed."""
    return [mail.subject.rpartition(" ")[2] for mail in workflow.mails]


def test_a_payment_is_dispatched_once_more_after_process_paid_failed(workflow: Workflow) -> None:
    workflow.run(DELIVERY)
    assert workflow.fail_process_paid()
    assert status(workflow) == ("open", 0)
    assert kinds(workflow) == [event["exception"]["values"][0]["type"] for event in workflow.sentry.events]
    assert kinds(workflow) == ["ProcessPaidFailed"]

    for _ in range(2):
        workflow.heal()
        workflow.pass_time()
    assert [payload.decode() for _, _, payload in workflow.dispatched] == [DELIVERY["body"]] * 2
    assert status(workflow) == ("resolved", 1)


def test_the_record_of_an_earlier_dispatch_changes_nothing(workflow: Workflow) -> None:
    workflow.run(DELIVERY)
    for _ in range(2):
        assert workflow.fail_process_paid(1)
    workflow.heal()
    assert workflow.fail_process_paid(1)
    workflow.heal()
    assert len(workflow.dispatched) == 2
    assert status(workflow) == ("resolved", 1)


def test_a_process_paid_that_never_succeeds_is_given_up(workflow: Workflow) -> None:
    workflow.run(DELIVERY)
    for attempt in range(ATTEMPTS):
        assert workflow.fail_process_paid()
        assert status(workflow) == ("open", attempt)
        workflow.pass_time(24 * 60)
        workflow.heal()
    assert workflow.fail_process_paid()
    workflow.pass_time(24 * 60)
    workflow.heal()

    assert len(workflow.dispatched) == 1 + ATTEMPTS
    assert status(workflow) == ("given up", ATTEMPTS)
    # Repeated failures are only counted.
    assert kinds(workflow) == ["ProcessPaidFailed", "GivenUp"]

    workflow.heal(requestId="8f7e6d5c")
    assert len(workflow.dispatched) == 2 + ATTEMPTS
    assert status(workflow) == ("resolved", ATTEMPTS + 1)


def test_another_delivery_may_dispatch_a_reopened_payment_first(workflow: Workflow) -> None:
    workflow.run(DELIVERY)
    workflow.fail_process_paid()
    assert workflow.run(DELIVERY | {"requestId": "later"}).answer[1]["duplicate"] is False
    workflow.heal()
    assert len(workflow.dispatched) == 2
    assert status(workflow) == ("resolved", 1)


def test_a_reopened_payment_that_is_declined_is_told(workflow: Workflow) -> None:
    workflow.run(DELIVERY)
    workflow.fail_process_paid()
    declined = json.dumps(json.loads(DELIVERY["body"]) | {"success": False})
    workflow.run(DELIVERY | {"requestId": "declined", "body": declined})
    assert kinds(workflow) == ["ProcessPaidFailed", "PaidThenDeclined"]


def test_a_failure_that_arrives_during_the_redrive_waits_for_its_end(workflow: Workflow) -> None:
    managed: list[bool] = []
    workflow.run(DELIVERY)
    workflow.fail_process_paid()
    workflow.functions.run_after("InvokeProcessPaid", lambda: managed.append(workflow.fail_process_paid()))
    workflow.heal()
    assert managed == [False]
    assert status(workflow) == ("resolved", 1)

    assert workflow.fail_process_paid()
    assert status(workflow) == ("open", 1)
    workflow.heal()
    assert len(workflow.dispatched) == 3


def test_a_failure_that_arrives_before_the_dispatch_is_stored_waits_for_it(workflow: Workflow) -> None:
    managed: list[bool] = []
    workflow.aws.run_after(INVOKE, lambda: managed.append(workflow.fail_process_paid()))
    workflow.run(DELIVERY)
    assert managed == [False]
    assert workflow.errors == []
    assert workflow.fail_process_paid()


def test_a_redrive_between_the_report_and_the_reopening_loses_nothing(workflow: Workflow) -> None:
    workflow.run(DELIVERY)
    workflow.aws.run_after(CALLS[2], workflow.heal)
    assert workflow.fail_process_paid()
    assert len(workflow.dispatched) == 1
    workflow.heal()
    assert len(workflow.dispatched) == 2
    assert status(workflow)[0] == "resolved"


def heal_meanwhile(workflow: Workflow) -> None:
    workflow.heal()


def wait(_: Workflow) -> None:
    """Let the queue deliver the message again before healing runs."""


@pytest.mark.parametrize("meanwhile", [wait, heal_meanwhile])
@pytest.mark.parametrize("call", CALLS, ids=["error log", "Sentry", "e-mail", "ledger"])
def test_a_reopening_that_is_killed_is_completed(
    workflow: Workflow, call: Call, meanwhile: Callable[[Workflow], None]
) -> None:
    workflow.run(DELIVERY)
    workflow.aws.run_after(call, kill_process)
    assert not workflow.fail_process_paid()
    assert workflow.aws.faulted == [call]
    meanwhile(workflow)

    assert workflow.fail_process_paid(1)
    workflow.heal()
    assert len(workflow.dispatched) == 2
    assert status(workflow)[0] == "resolved"
    assert "ProcessPaidFailed" in kinds(workflow)


def test_a_redrive_whose_invoke_is_lost_dispatches_again(workflow: Workflow) -> None:
    """The record shows the dispatch that failed; it must not pass for the one that was lost."""
    workflow.run(DELIVERY)
    workflow.fail_process_paid()
    workflow.aws.time_out(INVOKE, times=1)
    workflow.heal()
    assert len(workflow.dispatched) == 1

    workflow.pass_time(24 * 60)
    workflow.heal()
    assert len(workflow.dispatched) == 2
