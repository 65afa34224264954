"""One dispatch per payment: repeated, out of order, and contradicting itself."""

import json
from typing import Any

import pytest

from tests.outcomes import FAILURE_MESSAGE, body_of
from tests.workflow.account import INVOKE, Workflow
from tests.workflow.paths import CONFLICT, PAID

CONFLICT_ERROR = "The payment was delivered before with another amount or user"


def delivery(**fields: Any) -> dict[str, str]:
    """Return the paid event with other fields; None removes one."""
    body = json.loads(body_of("paid")) | fields
    return {"body": json.dumps({field: value for field, value in body.items() if value is not None})}


def test_a_payment_that_is_delivered_again_is_dispatched_once(workflow: Workflow) -> None:
    answers = [workflow.run({"body": body_of(name)}).answer for name in ("paid", "paid-again", "paid-again")]

    assert [(status, answer["processing"], answer["duplicate"]) for status, answer in answers] == [
        (200, True, False),
        (200, True, True),
        (200, True, True),
    ]
    assert len(workflow.records) == 3
    assert len(workflow.dispatched) == 1
    assert workflow.errors == []


@pytest.mark.parametrize("other", [{"amount": 2339.01}, {"userId": "another"}])
def test_a_payment_with_another_amount_or_user_than_before_is_a_conflict(
    workflow: Workflow, other: dict[str, Any]
) -> None:
    workflow.run(delivery())
    execution = workflow.run(delivery(**other))

    assert execution.states == CONFLICT
    assert execution.answer == (500, {"success": False, "error": CONFLICT_ERROR, "message": FAILURE_MESSAGE})
    assert execution.attempts["InvokeProcessPaid"] == 1
    assert len(workflow.records) == 2
    assert len(workflow.dispatched) == 1
    (error,) = workflow.errors
    assert (error["step"], error["error"]) == ("InvokeProcessPaid", "PaymentConflict")
    assert len(workflow.mails) == len(workflow.sentry.events) == 1


def test_a_missing_amount_is_no_conflict(workflow: Workflow) -> None:
    workflow.run(delivery())
    assert workflow.run(delivery(amount=None)).answer[1]["duplicate"] is True
    assert len(workflow.dispatched) == 1


def test_the_same_amount_in_another_notation_is_no_conflict(workflow: Workflow) -> None:
    for amount in ("1.5", "1.50", "15e-1"):
        body = '{"orderId": "1", "paymentId": "2", "userId": "3", "success": true, "amount": AMOUNT}'
        assert workflow.run({"body": body.replace("AMOUNT", amount)}).answer[0] == 200
    assert len(workflow.dispatched) == 1


def test_a_payment_after_a_decline_is_dispatched(workflow: Workflow) -> None:
    workflow.run(delivery(success=False))
    execution = workflow.run(delivery())

    assert (execution.answer[1]["processing"], execution.answer[1]["duplicate"]) == (True, False)
    assert len(workflow.dispatched) == 1


def test_a_failed_dispatch_is_made_by_the_next_delivery(workflow: Workflow) -> None:
    workflow.aws.refuse(INVOKE, "ServiceException", status=500, times=2)
    failed = workflow.run(delivery())
    execution = workflow.run(delivery())

    assert failed.answer[0] == 500
    assert execution.answer[1]["duplicate"] is False
    assert len(workflow.dispatched) == 1


def test_a_repeated_step_does_not_repeat_an_accepted_invocation(workflow: Workflow) -> None:
    # The step's own answer is lost: Lambda has done the work, but Step Functions does not know.
    workflow.functions.lose_answer("InvokeProcessPaid")
    execution = workflow.run(delivery())

    assert execution.states == PAID
    assert execution.attempts["InvokeProcessPaid"] == 2
    assert execution.answer[1]["duplicate"] is False
    assert len(workflow.dispatched) == 1
