"""Payments that contradict each other are told, each contradiction as a kind of its own."""

import json
from typing import Any

import pytest

from callbacks.queues import Lane, lane_of
from tests.outcomes import body_of
from tests.workflow.account import INVOKE, Call, Workflow
from tests.workflow.engine import LEDGER_TABLE
from tests.workflow.test_decisions import decide

COMPARE: Call = ("in InvokeProcessPaid:", "Query", f'"TableName": "{LEDGER_TABLE}"')
ANOTHER_PAYMENT = {"paymentId": "another"}


def delivery(request_id: str = "request-1", **fields: Any) -> dict[str, Any]:
    """Return the input that the API builds from a paid callback."""
    return {"body": json.dumps(json.loads(body_of("paid")) | fields), "requestId": request_id}


def kinds_told(workflow: Workflow) -> list[str]:
    """Return the errors that were e-mailed, one e-mail each; assert that Sentry has them in groups of their own."""
    mailed = [mail.subject.removeprefix("[test] BankApp callback: ") for mail in workflow.mails]
    assert list(dict.fromkeys(event["fingerprint"][-1] for event in workflow.sentry.events)) == mailed
    return mailed


@pytest.mark.parametrize(
    ("other", "kind", "text"),
    [
        (ANOTHER_PAYMENT, "OrderPaidTwice", "Payment pay_bankapp_123 of the order was dispatched too"),
        ({"orderId": "another"}, "PaymentIdReused", "The payment id was used for order 482500007436 too"),
    ],
)
def test_a_contradiction_is_dispatched_and_told(
    workflow: Workflow, other: dict[str, str], kind: str, text: str
) -> None:
    workflow.run(delivery())
    execution = workflow.run(delivery("request-2", **other))

    assert execution.answer[0] == 200
    assert execution.answer[1] == execution.answer[1] | {"processing": True, "duplicate": False}
    assert len(workflow.dispatched) == 2
    assert kinds_told(workflow) == [kind]
    assert text in workflow.mails[0].body
    assert workflow.errors == []


def test_a_payment_that_is_declined_after_its_dispatch_is_told(workflow: Workflow) -> None:
    workflow.run(delivery())
    execution = workflow.run(delivery("request-2", success=False))

    assert execution.answer[0] == 200
    assert execution.answer[1]["processing"] is False
    assert kinds_told(workflow) == ["PaidThenDeclined"]
    assert workflow.run(delivery("request-3")).answer[1]["duplicate"] is True
    assert len(workflow.dispatched) == 1


@pytest.mark.usefixtures("claims_expire_before_retries")
def test_a_payment_that_may_be_dispatched_and_is_declined_is_told(workflow: Workflow) -> None:
    workflow.aws.lose_answer(INVOKE)
    workflow.run(delivery())
    workflow.run(delivery("request-2", success=False))

    assert kinds_told(workflow) == ["DispatchUncertain", "PaidThenDeclined"]


@pytest.mark.parametrize(
    "other", [{"success": False, **ANOTHER_PAYMENT}, {"orderId": "another", **ANOTHER_PAYMENT}, {}]
)
def test_deliveries_that_agree_are_not_told(workflow: Workflow, other: dict[str, Any]) -> None:
    workflow.run(delivery())
    workflow.run(delivery("request-2", **other))

    assert kinds_told(workflow) == []


def test_a_payment_that_was_never_dispatched_contradicts_none(workflow: Workflow) -> None:
    workflow.aws.refuse(INVOKE, "AccessDeniedException", status=403, times=1)
    workflow.run(delivery())
    workflow.run(delivery("request-2", **ANOTHER_PAYMENT))

    assert kinds_told(workflow) == ["ClientError"]


def test_of_two_payments_at_once_at_least_one_finds_the_other(workflow: Workflow) -> None:
    workflow.aws.run_after(INVOKE, lambda: workflow.run(delivery("request-2", **ANOTHER_PAYMENT)))
    workflow.run(delivery())

    assert len(workflow.dispatched) == 2
    assert kinds_told(workflow) == ["OrderPaidTwice"]


def test_payments_that_cannot_be_compared_are_told_and_dispatched(workflow: Workflow) -> None:
    workflow.aws.refuse(COMPARE, "ProvisionedThroughputExceededException")
    assert workflow.run(delivery()).answer[1]["processing"] is True

    assert len(workflow.dispatched) == 1
    assert kinds_told(workflow) == ["PaymentsNotCompared"]


# On hold


def hold_second_payment(workflow: Workflow) -> None:
    workflow.deploy(SecondPaymentMode="hold")
    workflow.run(delivery("request-0", **ANOTHER_PAYMENT))
    execution = workflow.run(delivery())
    assert execution.answer[0] == 500
    assert execution.answer[1]["error"].startswith("Internal error")


def test_a_held_payment_waits_for_an_operator(workflow: Workflow) -> None:
    hold_second_payment(workflow)
    workflow.pass_time(24 * 60)
    workflow.heal()

    (row,) = workflow.errors
    assert (row["error"], row["status"], lane_of(row["queue"])) == ("OrderPaidTwice", "open", Lane.OPERATOR)
    assert kinds_told(workflow) == ["OrderPaidTwice"]
    assert len(workflow.dispatched) == 1


def test_a_held_payment_is_dispatched_when_an_operator_accepts_it(workflow: Workflow) -> None:
    hold_second_payment(workflow)

    assert decide(workflow, "accept") == ("resolved", "200 BankApp callback recorded")
    assert len(workflow.dispatched) == 2
    assert decide(workflow, "accept", "decision-2") == ("resolved", "200 BankApp callback recorded")
    assert len(workflow.dispatched) == 2


def test_a_held_payment_that_is_dismissed_holds_no_other(workflow: Workflow) -> None:
    hold_second_payment(workflow)

    assert decide(workflow, "dismiss")[0] == "resolved"
    assert workflow.run(delivery("request-2", **ANOTHER_PAYMENT)).answer[1]["duplicate"] is True
    assert len(workflow.dispatched) == 1


def test_of_two_payments_at_once_no_two_pass_the_hold(workflow: Workflow) -> None:
    workflow.deploy(SecondPaymentMode="hold")
    workflow.aws.run_after(COMPARE, lambda: workflow.run(delivery("request-2", **ANOTHER_PAYMENT)))
    workflow.run(delivery())

    assert len(workflow.dispatched) == 1
    assert [row["error"] for row in workflow.errors] == ["OrderPaidTwice"]


def test_payments_that_cannot_be_compared_are_held(workflow: Workflow) -> None:
    workflow.deploy(SecondPaymentMode="hold")
    workflow.aws.refuse(COMPARE, "ProvisionedThroughputExceededException")
    assert workflow.run(delivery()).answer[0] == 500
    assert workflow.dispatched == []

    workflow.recover()
    workflow.pass_time()
    workflow.heal()
    assert len(workflow.dispatched) == 1
