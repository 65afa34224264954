"""Faults that last: however often a fault repeats itself, a payment is dispatched as often as promised and no more."""

from collections.abc import Callable

import boto3
import pytest

from callbacks.queues import Lane, lane_of
from tests.outcomes import body_of
from tests.sources import TEMPLATE
from tests.workflow.account import (
    CLAIM_PAYMENT,
    CONFIRM_DISPATCH,
    FINISH_CLAIM,
    INVOKE,
    PROMISED,
    Workflow,
    client,
    kill_process,
)
from tests.workflow.engine import LEDGER_TABLE
from tests.workflow.genuine import create_tables, delivery, forget_secrets, put_order, put_secret

DELIVERY = {"body": body_of("paid"), "requestId": "8f7e6d5c", "receivedAt": 1795341600000, "sourceIp": "203.0.113.7"}
pytestmark = pytest.mark.usefixtures("claims_expire_before_retries")


def lose_every_answer(workflow: Workflow) -> None:
    workflow.aws.lose_answer(INVOKE)


def kill_after_every_invoke(workflow: Workflow) -> None:
    for _ in range(20):
        workflow.aws.run_after(INVOKE, kill_process)


def record_no_dispatch(workflow: Workflow) -> None:
    for call in (FINISH_CLAIM, CONFIRM_DISPATCH):
        workflow.aws.refuse(call, "ProvisionedThroughputExceededException")


LASTING: dict[str, Callable[[Workflow], None]] = {
    "every answer to the invoke is lost": lose_every_answer,
    "every process is killed after the invoke": kill_after_every_invoke,
    "no dispatch can be recorded": record_no_dispatch,
}


def deliver_and_heal_to_the_end(workflow: Workflow) -> None:
    for number in range(3):
        workflow.run(DELIVERY | {"requestId": f"request-{number}"})
    for _ in range(2 * TEMPLATE["Parameters"]["RedriveAttempts"]["Default"]):
        workflow.pass_time(24 * 60)
        workflow.heal()


@pytest.mark.parametrize("fault", LASTING)
def test_a_payment_is_dispatched_no_more_often_than_promised(workflow: Workflow, fault: str) -> None:
    LASTING[fault](workflow)
    deliver_and_heal_to_the_end(workflow)
    workflow.recover()
    deliver_and_heal_to_the_end(workflow)

    assert len(workflow.dispatched) == PROMISED


@pytest.mark.parametrize("fault", LASTING)
def test_an_operator_learns_how_often_a_payment_may_have_been_dispatched(workflow: Workflow, fault: str) -> None:
    LASTING[fault](workflow)
    deliver_and_heal_to_the_end(workflow)

    undecided = [row for row in workflow.errors if row["error"] == "DispatchUndecided"]
    assert undecided
    assert {row["status"] for row in undecided} == {"open"}
    assert {lane_of(row["queue"]) for row in undecided} == {Lane.OPERATOR}
    mails = [mail for mail in workflow.mails if mail.subject.endswith("DispatchUndecided")]
    assert mails
    assert f"The payment may have been dispatched {PROMISED} times" in mails[0].body


def test_a_process_that_always_dies_in_the_ledger_dispatches_nothing_and_is_given_up(workflow: Workflow) -> None:
    for _ in range(99):
        workflow.aws.run_after(("in InvokeProcessPaid:", "UpdateItem"), kill_process)
    deliver_and_heal_to_the_end(workflow)

    assert workflow.dispatched == []
    assert {row["status"] for row in workflow.errors} == {"given up"}
    assert [mail.subject.rpartition(" ")[2] for mail in workflow.mails] == ["Runtime.ExitError", "GivenUp"]


def test_a_claim_whose_answer_is_lost_goes_on_at_once(workflow: Workflow) -> None:
    workflow.aws.lose_answer(CLAIM_PAYMENT, times=1)
    execution = workflow.run(DELIVERY)

    assert execution.answer[0] == 200
    assert execution.attempts["InvokeProcessPaid"] == 1
    (payment,) = boto3.resource("dynamodb").Table(LEDGER_TABLE).scan()["Items"]
    assert (payment["dispatches"], "dispatchedBy" in payment) == (1, True)


def test_the_checks_are_not_made_again_for_a_dispatched_payment(workflow: Workflow) -> None:
    forget_secrets(workflow)
    put_secret()
    create_tables()
    put_order()
    workflow.deploy(SignatureMode="enforce", CrossCheckMode="enforce", InquiryMode="off")
    assert workflow.run(delivery()).answer[0] == 200
    client("dynamodb").delete_item(TableName="order-table-dev", Key={"orderId": {"S": "482500007436"}})
    again = workflow.run(delivery() | {"requestId": "delivered-again"})

    assert again.answer[1]["duplicate"] is True
    assert "CrossCheckPayment" not in again.states
    assert len(workflow.dispatched) == 1
    assert workflow.errors == []
