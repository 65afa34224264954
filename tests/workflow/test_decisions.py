"""An operator can finish every failed delivery: dispatch it again, accept it or dismiss it, each decision once."""

import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest

import redrive
from tests.outcomes import body_of
from tests.workflow.account import (
    CONFIRM_DISPATCH,
    FINISH_CLAIM,
    INVOKE,
    PROCESS_DIED,
    PROMISED,
    Workflow,
    client,
    kill_process,
)
from tests.workflow.engine import LEDGER_TABLE
from tests.workflow.genuine import create_tables, put_order

OPERATOR = "arn:aws:sts::123456789012:assumed-role/operator/nan"


def delivery(request_id: str = "request-1", **fields: Any) -> dict[str, Any]:
    """Return the input that the API builds from a paid callback."""
    body = json.loads(body_of("paid")) | fields
    return {"body": json.dumps(body), "requestId": request_id, "receivedAt": 1795341600000, "sourceIp": "203.0.113.7"}


def decision(action: str, decision_id: str = "decision-1") -> dict[str, str]:
    return {"id": decision_id, "action": action, "by": OPERATOR, "reason": "The log of process-paid has no trace"}


def decide(workflow: Workflow, action: str, decision_id: str = "decision-1", request_id: str = "request-1") -> Any:
    """Carry out a decision; return the status and the result, or None if no failure was found."""
    healing = workflow.heal(requestId=request_id, decision=decision(action, decision_id))
    assert healing.status == "SUCCEEDED"
    outcomes = [(outcome["status"], outcome["lastResult"]) for outcome in healing.output.get("results", [])]
    return outcomes[0] if outcomes else None


def failure(workflow: Workflow, request_id: str = "request-1") -> dict[str, Any]:
    (row,) = [row for row in workflow.errors if row["requestId"] == request_id]
    return row


def payment() -> dict[str, Any]:
    (item,) = boto3.resource("dynamodb").Table(LEDGER_TABLE).scan()["Items"]
    return item


def leave_undecided(workflow: Workflow) -> None:
    """Deliver a payment whose every invoke goes unanswered until an operator has to decide."""
    workflow.aws.lose_answer(INVOKE)
    workflow.run(delivery())
    for _ in range(PROMISED):
        workflow.pass_time()
        workflow.heal()
    workflow.recover()
    workflow.pass_time()
    assert failure(workflow)["error"] == "DispatchUndecided"
    assert len(workflow.dispatched) == PROMISED


def contradict(workflow: Workflow) -> dict[str, Any]:
    """Deliver a payment, and then another amount for it; return the second delivery."""
    workflow.run(delivery("request-0"))
    second = delivery(amount=1)
    assert workflow.run(second).answer[1]["duplicate"] is True
    assert failure(workflow)["error"] == "PaymentConflict"
    return second


def test_again_dispatches_an_undecided_payment_once_more(workflow: Workflow) -> None:
    leave_undecided(workflow)

    assert decide(workflow, "again") == ("resolved", "200 BankApp callback recorded")
    assert len(workflow.dispatched) == PROMISED + 1
    assert workflow.dispatched[-1][2].decode() == delivery()["body"]
    assert (payment()["dispatches"], payment()["decisionIds"]) == (PROMISED + 1, {"decision-1"})
    assert workflow.run(delivery("request-2")).answer[1]["duplicate"] is True


def test_again_dispatches_a_resolved_payment_once_more_per_decision(workflow: Workflow) -> None:
    leave_undecided(workflow)
    decide(workflow, "again")

    assert decide(workflow, "again") == ("skipped", "resolved")
    assert len(workflow.dispatched) == PROMISED + 1
    assert decide(workflow, "again", "decision-2")[0] == "resolved"
    assert len(workflow.dispatched) == PROMISED + 2
    assert [entry["id"] for entry in failure(workflow)["decisions"]] == ["decision-1", "decision-2"]


def test_again_dispatches_a_payment_that_never_failed_if_its_order_is_named(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workflow.run(delivery())
    assert decide(workflow, "again") is None
    order = json.loads(body_of("paid"))["orderId"]

    def run(answer: str) -> int:
        monkeypatch.setattr("builtins.input", lambda _: answer)
        named = {"requestId": "request-1", "orderId": order}
        return redrive.decide(
            client("stepfunctions"), workflow.healing_arn, named, decision("again"), is_confirmed=False
        )

    assert run("n") == 1
    assert f"recorded     order {order}" in capsys.readouterr().out
    assert (workflow.errors, len(workflow.dispatched)) == ([], 1)
    assert run("y") == 0
    assert len(workflow.dispatched) == 2
    assert workflow.dispatched[1][2] == workflow.dispatched[0][2]
    assert [(row["error"], row["status"]) for row in workflow.errors] == [("DecisionRequested", "resolved")]
    assert payment()["dispatches"] == 2


def test_a_delivery_of_another_order_is_not_found(workflow: Workflow) -> None:
    workflow.run(delivery())
    named = {"requestId": "request-1", "orderId": "another"}
    assert "results" not in workflow.heal(**named, decision=decision("again")).output
    assert (workflow.errors, len(workflow.dispatched)) == ([], 1)


def test_a_decision_is_kept_with_who_when_and_why(workflow: Workflow) -> None:
    leave_undecided(workflow)
    decide(workflow, "again")

    (kept,) = failure(workflow)["decisions"]
    assert kept.pop("at") > "2026"
    assert kept == decision("again") | {"attempt": failure(workflow)["attempts"]}


def test_a_conflict_that_is_accepted_is_dispatched_as_it_was_delivered(workflow: Workflow) -> None:
    second = contradict(workflow)

    assert decide(workflow, "accept") == ("resolved", "200 BankApp callback recorded")
    assert [payload.decode() for _, _, payload in workflow.dispatched] == [delivery()["body"], second["body"]]
    assert workflow.run(second | {"requestId": "request-2"}).answer[1]["duplicate"] is True
    assert failure(workflow)["status"] == "resolved"
    workflow.run(delivery("request-3"))
    assert [row["requestId"] for row in workflow.errors if row["status"] == "open"] == ["request-3"]
    assert decide(workflow, "accept", "decision-2") == ("resolved", "200 BankApp callback recorded")
    assert len(workflow.dispatched) == 2


def test_a_conflict_is_not_dispatched_by_again(workflow: Workflow) -> None:
    contradict(workflow)

    assert decide(workflow, "again") == ("open", "500 The payment was delivered before with another amount or user")
    assert len(workflow.dispatched) == 1


def test_a_conflict_that_is_accepted_is_checked_like_any_payment(workflow: Workflow) -> None:
    create_tables()
    put_order()
    workflow.deploy(CrossCheckMode="enforce")
    contradict(workflow)

    status, result = decide(workflow, "accept")
    assert (status, result.startswith("500 Internal error")) == ("open", True)
    assert failure(workflow)["error"] == "PaymentMismatch"
    put_order(total=1)
    assert decide(workflow, "accept", "decision-2")[0] == "resolved"
    assert len(workflow.dispatched) == 2


@pytest.mark.parametrize("leave", [leave_undecided, contradict])
def test_a_dismissal_resolves_the_failure_and_dispatches_nothing(
    workflow: Workflow, leave: Callable[[Workflow], Any]
) -> None:
    leave(workflow)
    before = len(workflow.dispatched), failure(workflow)["attempts"]

    assert decide(workflow, "dismiss") == ("resolved", f"dismissed by {OPERATOR}")
    assert (len(workflow.dispatched), failure(workflow)["attempts"]) == before
    assert [entry["action"] for entry in failure(workflow)["decisions"]] == ["dismiss"]
    workflow.pass_time()
    assert "results" not in workflow.heal().output


def test_a_decision_on_a_delivery_that_never_failed_changes_nothing(workflow: Workflow) -> None:
    workflow.run(delivery())

    assert decide(workflow, "again") is None
    assert len(workflow.dispatched) == 1


def test_a_dry_run_of_a_decision_only_shows_the_failure(workflow: Workflow) -> None:
    leave_undecided(workflow)
    before = workflow.errors
    healing = workflow.heal(requestId="request-1", decision=decision("again"), dryRun=True)

    (found,) = healing.output["found"]["failures"]
    assert f"may have been dispatched {PROMISED} times" in found["cause"]
    assert workflow.errors == before
    assert len(workflow.dispatched) == PROMISED


def lose_the_answer(workflow: Workflow) -> None:
    workflow.aws.lose_answer(INVOKE, times=1)


def kill_after_the_invoke(workflow: Workflow) -> None:
    workflow.aws.run_after(INVOKE, kill_process)


@pytest.mark.parametrize("fault", [lose_the_answer, kill_after_the_invoke])
def test_a_decision_with_an_unknown_outcome_is_not_repeated(
    workflow: Workflow, fault: Callable[[Workflow], None]
) -> None:
    leave_undecided(workflow)
    decide(workflow, "again")
    dispatched = len(workflow.dispatched)
    fault(workflow)

    assert decide(workflow, "again", "decision-2")[0] == "open"
    assert len(workflow.dispatched) == dispatched + 1
    for _ in range(3):
        workflow.pass_time(24 * 60)
        assert "results" not in workflow.heal().output
    assert len(workflow.dispatched) == dispatched + 1
    assert decide(workflow, "again", "decision-3")[0] == "resolved"
    assert len(workflow.dispatched) == dispatched + 2


def test_a_decision_whose_invoke_lambda_refuses_dispatches_nothing_and_can_be_repeated(workflow: Workflow) -> None:
    leave_undecided(workflow)
    workflow.aws.refuse(INVOKE, "ServiceException", status=500, times=2)

    assert decide(workflow, "again")[0] == "open"
    assert (len(workflow.dispatched), payment()["dispatches"]) == (PROMISED, PROMISED)
    # The payment still counts as undecided.
    assert workflow.run(delivery("request-2")).answer[0] == 500
    assert len(workflow.dispatched) == PROMISED
    assert decide(workflow, "again", "decision-2")[0] == "resolved"
    assert len(workflow.dispatched) == PROMISED + 1


def test_a_decision_that_cannot_be_recorded_is_carried_out_once(workflow: Workflow) -> None:
    leave_undecided(workflow)
    decide(workflow, "again")
    for call in (FINISH_CLAIM, CONFIRM_DISPATCH):
        workflow.aws.refuse(call, "ProvisionedThroughputExceededException")

    assert decide(workflow, "again", "decision-2")[0] == "open"
    workflow.recover()
    workflow.pass_time()
    assert workflow.heal(requestId="request-1").output["results"][0]["status"] == "resolved"
    assert len(workflow.dispatched) == PROMISED + 2


def test_a_decision_whose_run_dies_is_reported_and_not_made_up_for(workflow: Workflow) -> None:
    leave_undecided(workflow)
    workflow.functions.run_after("ClaimFailure", workflow.abort_healing)
    workflow.heal(requestId="request-1", decision=decision("again"))
    workflow.recover()
    workflow.pass_time()

    (outcome,) = workflow.heal().output["results"]
    assert (outcome["status"], outcome["lastResult"]) == ("given up", "The last attempt left no result")
    assert len(workflow.dispatched) == PROMISED
    assert workflow.mails[-1].subject.endswith("GivenUp")


def test_a_dismissal_that_could_not_be_settled_is_made_again(workflow: Workflow) -> None:
    contradict(workflow)
    workflow.functions.fail("SettleFailure", PROCESS_DIED, times=3)
    assert decide(workflow, "dismiss")[0] == "left for the next run"
    workflow.pass_time()

    assert decide(workflow, "dismiss", "decision-2")[0] == "resolved"


def test_a_decision_in_a_callback_of_a_caller_decides_nothing(workflow: Workflow) -> None:
    workflow.run(delivery("request-0"))
    execution = workflow.run(delivery(amount=1, decision={"id": "mine", "action": "accept"}))

    assert execution.answer[1]["duplicate"] is True
    assert failure(workflow)["error"] == "PaymentConflict"
    assert len(workflow.dispatched) == 1
