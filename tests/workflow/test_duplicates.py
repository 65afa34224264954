"""One dispatch per payment: repeated, out of order, and contradicting itself."""

import json
from typing import Any

import pytest

from callbacks.queues import Lane, lane_of
from tests.outcomes import FAILURE_MESSAGE, body_of
from tests.workflow.account import INVOKE, Workflow
from tests.workflow.genuine import delivery as genuine_delivery
from tests.workflow.genuine import forget_secrets, put_secret
from tests.workflow.paths import CONFLICT, LOOKED_UP, PAID

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
def test_an_unsigned_conflict_is_told_to_operators_and_answered_like_a_duplicate(
    workflow: Workflow, other: dict[str, Any]
) -> None:
    workflow.run(delivery())
    duplicate = workflow.run(delivery())
    execution = workflow.run(delivery(**other) | {"requestId": "request-3", "receivedAt": 1795341600000})

    assert execution.answer == duplicate.answer
    assert execution.answer[1]["duplicate"] is True
    assert execution.waits == []
    assert execution.states[len(LOOKED_UP) :] == [
        *("InvokeProcessPaid", "MayConflictBeRevealed?", "AnswerLikeDuplicate"),
        *("IsSettled?", "ReportConflictApart", "RespondDispatched"),
    ]
    assert (len(workflow.records), len(workflow.dispatched)) == (3, 1)
    (error,) = workflow.errors
    assert (error["requestId"], error["step"]) == ("request-3", "InvokeProcessPaid")
    assert (error["error"], error["status"], lane_of(error["queue"])) == ("PaymentConflict", "open", Lane.OPERATOR)
    assert CONFLICT_ERROR in error["cause"]
    (mail,) = workflow.mails
    assert mail.subject == "[test] BankApp callback: PaymentConflict"
    assert len(workflow.sentry.events) == 1


def test_an_unsigned_conflict_that_is_not_reported_is_found_by_healing(workflow: Workflow) -> None:
    workflow.run(delivery() | {"requestId": "request-1"})
    workflow.aws.refuse(("in :", "StartExecution"), "ThrottlingException")
    workflow.run(delivery(amount=1) | {"requestId": "request-2"})
    assert workflow.errors == []
    workflow.heal()

    (error,) = workflow.errors
    assert (error["requestId"], error["error"]) == ("request-2", "PaymentConflict")
    assert (error["status"], lane_of(error["queue"])) == ("open", Lane.OPERATOR)
    assert len(workflow.dispatched) == 1


def test_the_bank_is_told_about_a_conflict_that_it_signed(workflow: Workflow) -> None:
    forget_secrets(workflow)
    put_secret()
    workflow.deploy(SignatureMode="warn")
    workflow.run({"body": body_of("paid").replace("2339", "1")})
    execution = workflow.run(genuine_delivery())

    assert execution.states[-len(CONFLICT) + len(LOOKED_UP) :] == CONFLICT[len(LOOKED_UP) :]
    assert execution.answer == (500, {"success": False, "error": CONFLICT_ERROR, "message": FAILURE_MESSAGE})
    assert execution.attempts["InvokeProcessPaid"] == 1
    (error,) = workflow.errors
    assert (error["step"], error["error"]) == ("InvokeProcessPaid", "PaymentConflict")


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
