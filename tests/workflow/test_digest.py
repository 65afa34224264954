"""Once a day, and on request, operators learn which failures wait for them."""

import json
from typing import Any

import pytest

from tests.workflow.account import INVOKE, SEND_MAIL, Workflow
from tests.workflow.test_alerts import rows_of, subjects
from tests.workflow.test_healing import delivery, fail_to_dispatch, rules_of


def give_up(workflow: Workflow, number: int) -> None:
    fail_to_dispatch(workflow, number)
    workflow.aws.refuse(INVOKE, "ServiceException", status=500)
    for _ in range(8):
        workflow.heal()
    workflow.aws.recover()


def test_a_digest_lists_what_waits_and_counts_what_anybody_can_cause(workflow: Workflow) -> None:
    give_up(workflow, 1)
    workflow.run(delivery(2))
    workflow.run(delivery(3, orderId="order-2", paymentId="pay-2", amount=1))
    workflow.run(delivery(4, userId=None))
    workflow.run({"body": "{}", "requestId": "request-5"})
    healing = workflow.heal(digest=True)

    assert healing.states == ["WhichRun?", "SendDigest", "Healed"]
    assert (healing.output["digest"]["failures"], healing.output["digest"]["fromAnyone"]) == (2, 2)
    assert subjects(workflow)[-1] == "waiting for operators: 2"
    assert [(row[0], row[3], row[4], row[5]) for row in rows_of(workflow.mails[-1])] == [
        ("order-1", "given up", "ServiceUnavailable", "request-1"),
        ("order-2", "open", "PaymentConflict", "request-3"),
    ]


def test_no_digest_is_sent_if_only_strangers_failures_wait(workflow: Workflow) -> None:
    workflow.run({"body": "{}"})
    fail_to_dispatch(workflow, 1)
    sent = len(workflow.mails)
    healing = workflow.heal(digest=True)

    assert healing.output["digest"] == {"failures": 0, "fromAnyone": 1, "isComplete": True, "messageId": None}
    assert len(workflow.mails) == sent


def test_a_payment_that_is_refused_in_a_redrive_is_reported_and_listed(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow.run({"body": "{}"})
    with monkeypatch.context() as before:
        before.setitem(rules_of(workflow), "paymentId", lambda _: None)
        workflow.aws.refuse(INVOKE, "ServiceException", status=500, times=2)
        workflow.run(delivery(1, paymentId=" pay-1"))
    workflow.heal()
    workflow.heal(digest=True)

    assert subjects(workflow) == ["InvalidCallback", "ServiceUnavailable", "GivenUp", "waiting for operators: 1"]
    event = workflow.sentry.events[-1]
    assert (event["fingerprint"][-1], event["tags"]["orderId"]) == ("GivenUp", "order-1")
    assert [row[5] for row in rows_of(workflow.mails[-1])] == ["request-1"]


def test_a_refusal_that_an_operator_asked_for_is_not_reported_again(workflow: Workflow) -> None:
    workflow.run(delivery(1, userId=None))
    workflow.heal(requestId="request-1")

    assert subjects(workflow) == ["InvalidCallback"]


def test_a_digest_that_cannot_be_sent_fails_visibly(workflow: Workflow) -> None:
    give_up(workflow, 1)
    workflow.aws.refuse(SEND_MAIL, "Throttling")
    assert workflow.heal(digest=True).status == "FAILED"


@pytest.mark.parametrize("selection", [{"digest": False}, {"digest": "yes"}])
def test_anything_but_a_request_for_a_digest_is_refused(workflow: Workflow, selection: dict[str, Any]) -> None:
    assert workflow.heal(**selection).status == "FAILED"
    assert json.dumps(workflow.errors) == "[]"
