"""What a check has verified stays verified, and what it has refused stays refused, whatever has changed since."""

import json
from typing import Any

import pytest

import redrive
from tests.outcomes import body_of
from tests.sources import CHECKS
from tests.workflow.account import INVOKE, START_CALLBACK, Workflow, client
from tests.workflow.genuine import (
    KEY,
    OTHER_KEY,
    create_tables,
    delivery,
    forget_secrets,
    put_order,
    put_secret,
    rotate_key,
)
from tests.workflow.test_decisions import decide

SINCE = "2026-01-01T00:00Z"


@pytest.fixture(autouse=True)
def _account_beside_the_stack(workflow: Workflow) -> None:
    """The bank's secret, and the tables of orders and payments."""
    forget_secrets(workflow)
    put_secret()
    create_tables()


def forgery(number: int) -> dict[str, Any]:
    """Return a delivery for an order that does not exist."""
    body = json.loads(body_of("paid")) | {"orderId": f"order-{number}", "paymentId": f"pay-{number}"}
    return delivery(key=None) | {"body": json.dumps(body), "requestId": f"request-{number}"}


def fail_to_dispatch(workflow: Workflow, execution_input: dict[str, Any]) -> None:
    """Run a delivery that passes the checks and cannot be dispatched."""
    workflow.aws.refuse(INVOKE, "ServiceException", status=500, times=2)
    assert workflow.run(execution_input).answer[0] == 500
    assert [row["step"] for row in workflow.errors] == ["InvokeProcessPaid"]
    workflow.pass_time()


def heal(workflow: Workflow, **selection: Any) -> dict[str, str]:
    """Return the status of each delivery that a run of healing redrove."""
    healing = workflow.heal(**selection)
    assert healing.status == "SUCCEEDED"
    return {outcome["requestId"]: outcome["status"] for outcome in healing.output.get("results", [])}


def test_a_verified_callback_is_paid_after_its_key_was_removed(workflow: Workflow) -> None:
    workflow.deploy(SignatureMode="enforce")
    fail_to_dispatch(workflow, delivery(KEY))
    rotate_key(workflow, OTHER_KEY)
    assert workflow.run(delivery(KEY) | {"requestId": "late"}).answer[1]["error"] == "signature: does not match"

    assert heal(workflow) == {"8f7e6d5c": "resolved"}
    assert len(workflow.dispatched) == 1
    assert [record["signature"] for record in workflow.records] == ["passed"]


def test_a_verified_callback_whose_execution_died_is_paid_as_well(workflow: Workflow) -> None:
    workflow.deploy(SignatureMode="enforce")
    workflow.functions.run_after("SaveCallbackRecord", workflow.abort_callback)
    workflow.run(delivery(KEY))
    rotate_key(workflow, OTHER_KEY)

    assert heal(workflow) == {"8f7e6d5c": "resolved"}
    assert len(workflow.dispatched) == 1


def test_a_callback_that_agreed_with_its_order_is_paid_after_the_order_changed(workflow: Workflow) -> None:
    workflow.deploy(CrossCheckMode="enforce")
    put_order()
    fail_to_dispatch(workflow, delivery())
    put_order(total=1)

    assert heal(workflow) == {"8f7e6d5c": "resolved"}
    assert [record["crossCheck"] for record in workflow.records] == ["passed"]


def test_a_check_that_was_off_is_made_if_it_is_enforced_now(workflow: Workflow) -> None:
    fail_to_dispatch(workflow, delivery(key=None))
    workflow.deploy(**dict.fromkeys(CHECKS.values(), "enforce"))

    assert heal(workflow) == {"8f7e6d5c": "open"}
    assert [row["error"] for row in workflow.errors] == ["InvalidSignature"]
    assert workflow.dispatched == []


def test_a_check_that_failed_in_warn_is_made_if_it_is_enforced_now(workflow: Workflow) -> None:
    workflow.deploy(CrossCheckMode="warn")
    fail_to_dispatch(workflow, delivery())
    workflow.deploy(CrossCheckMode="enforce")

    assert heal(workflow) == {"8f7e6d5c": "unconfirmed"}
    assert [(row["step"], row["error"]) for row in workflow.errors] == [("CrossCheckPayment", "OrderNotFound")]
    put_order()
    workflow.pass_time()
    assert heal(workflow) == {"8f7e6d5c": "resolved"}


def test_a_verdict_in_warn_is_not_lost_if_the_check_is_off_now(workflow: Workflow) -> None:
    workflow.deploy(CrossCheckMode="warn")
    fail_to_dispatch(workflow, delivery())
    workflow.deploy(CrossCheckMode="off")

    assert heal(workflow) == {"8f7e6d5c": "resolved"}
    assert workflow.records[0]["crossCheck"].startswith("failed: OrderNotFound")
    assert workflow.mails[-1].subject == "[test] BankApp callback: CheckWarning"


@pytest.mark.parametrize("mode", ["warn", "off"])
@pytest.mark.parametrize("selection", [{}, {"since": SINCE}], ids=["by the schedule", "by an operator"])
def test_a_laxer_mode_pays_none_of_the_forgeries_that_wait(
    workflow: Workflow, mode: str, selection: dict[str, str]
) -> None:
    workflow.deploy(CrossCheckMode="enforce")
    for number in (1, 2, 3):
        workflow.run(forgery(number))
    workflow.deploy(CrossCheckMode=mode)
    workflow.pass_time()

    assert set(heal(workflow, **selection)) == {"request-1", "request-2", "request-3"}
    assert {row["status"] for row in workflow.errors} == {"open"}
    assert workflow.dispatched == []
    # One of them is genuine, and an operator knows it.
    assert decide(workflow, "despite", request_id="request-2")[0] == "resolved"
    assert [json.loads(payload)["orderId"] for _, _, payload in workflow.dispatched] == ["order-2"]


# Each check with an error by which it refuses a callback.
REFUSALS = {
    "VerifySignature": "InvalidSignature",
    "CrossCheckPayment": "PaymentMismatch",
    "InquirePayment": "PaymentNotConfirmed",
}


def refuse(workflow: Workflow, check: str, error: str) -> None:
    """Run a delivery that an enforced check refuses, and let the check refuse it again."""
    workflow.deploy(**{CHECKS[check]: "enforce"})
    workflow.functions.fail(check, {"errorType": error, "errorMessage": "no"})
    assert workflow.run(delivery()).answer[0] == 500


@pytest.mark.parametrize(("check", "error"), REFUSALS.items())
def test_a_check_that_refused_a_callback_is_made_although_it_is_off(workflow: Workflow, check: str, error: str) -> None:
    refuse(workflow, check, error)
    workflow.deploy()

    for _ in range(2):
        heal(workflow, requestId="8f7e6d5c")
        (row,) = workflow.errors
        assert (row["status"], row["step"], row["verdicts"][check]) == ("open", check, f"refused: {error}")
    assert row["attempts"] == 2
    assert workflow.dispatched == []


@pytest.mark.parametrize(("check", "error"), REFUSALS.items())
def test_an_operator_dispatches_a_callback_despite_its_refusal_once(workflow: Workflow, check: str, error: str) -> None:
    refuse(workflow, check, error)
    assert decide(workflow, "despite", "decision-1", "8f7e6d5c")[0] == "open"
    assert workflow.dispatched == []
    workflow.deploy()

    for decision_id in ("decision-2", "decision-3"):
        assert decide(workflow, "despite", decision_id, "8f7e6d5c")[0] == "resolved"
    assert len(workflow.dispatched) == 1
    kept = [(decision["id"], decision["action"]) for decision in workflow.errors[0]["decisions"]]
    assert kept == [(f"decision-{number}", "despite") for number in (1, 2, 3)]


def test_what_a_check_had_refused_is_paid_once_it_passes_that_check(workflow: Workflow) -> None:
    workflow.deploy(CrossCheckMode="enforce")
    workflow.run(delivery())
    workflow.deploy()
    put_order()
    workflow.pass_time()

    assert heal(workflow) == {"8f7e6d5c": "resolved"}
    assert [record["crossCheck"] for record in workflow.records] == ["passed"]


def test_a_check_that_could_not_be_made_has_refused_nothing(workflow: Workflow) -> None:
    workflow.deploy(CrossCheckMode="enforce", OrderTableName="nowhere")
    workflow.run(delivery())
    workflow.deploy()
    workflow.pass_time()

    assert heal(workflow) == {"8f7e6d5c": "resolved"}


def test_a_conflict_is_not_dispatched_despite_anything(workflow: Workflow) -> None:
    workflow.run(delivery())
    other = delivery() | {"requestId": "request-1", "body": body_of("paid").replace("2339", "1")}
    workflow.run(other)

    assert decide(workflow, "despite")[0] == "open"
    assert len(workflow.dispatched) == 1


def test_a_conflict_that_a_check_refused_needs_both_decisions(workflow: Workflow) -> None:
    put_order()
    workflow.run(delivery())
    workflow.run(delivery() | {"requestId": "request-1", "body": body_of("paid").replace("2339", "1")})
    workflow.deploy(CrossCheckMode="enforce")
    assert decide(workflow, "accept", "decision-1")[0] == "open"
    workflow.deploy()

    assert decide(workflow, "accept", "decision-2")[0] == "open"
    assert decide(workflow, "despite", "decision-3")[0] == "open"
    assert len(workflow.dispatched) == 1
    assert decide(workflow, "accept", "decision-4")[0] == "resolved"
    assert len(workflow.dispatched) == 2


def test_a_decision_whose_redrive_cannot_start_is_left_to_the_operator(workflow: Workflow) -> None:
    workflow.deploy(CrossCheckMode="enforce")
    workflow.run(delivery())
    workflow.deploy()
    workflow.aws.refuse(START_CALLBACK, "ThrottlingException", times=1)
    assert decide(workflow, "despite", request_id="8f7e6d5c") == ("open", "Sfn.SfnException")
    workflow.pass_time()

    assert heal(workflow) == {}
    assert workflow.dispatched == []
    assert decide(workflow, "despite", "decision-2", "8f7e6d5c")[0] == "resolved"


def test_a_redrive_since_a_time_leaves_out_what_was_refused_unless_asked(
    workflow: Workflow, capsys: pytest.CaptureFixture[str]
) -> None:
    workflow.deploy(SignatureMode="enforce")
    workflow.run(forgery(1))
    workflow.deploy(CrossCheckMode="enforce")
    workflow.run(forgery(2))
    capsys.readouterr()

    def redriven(**selection: Any) -> list[str]:
        redrive.redrive(client("stepfunctions"), workflow.healing_arn, {"since": SINCE, "limit": 1, **selection})
        return [line for line in capsys.readouterr().out.splitlines() if not line.startswith("{")]

    one, left_out, total = redriven()
    assert "request request-2" in one
    assert left_out == "Refused callbacks are left out; --refused includes them."
    assert total == "1 redriven: 1 unconfirmed"
    assert redriven(refused=True)[-1] == "2 redriven: 1 unconfirmed, 1 open"
    assert redriven(refused=True, dryRun=True)[-1] == "2 would be redriven: 2 open"


def test_verdicts_in_a_callback_of_a_caller_count_for_nothing(workflow: Workflow) -> None:
    workflow.deploy(SignatureMode="enforce")
    posed = {"modes": dict.fromkeys(CHECKS, "off"), "checks": {check: {"verdict": "passed"} for check in CHECKS}}
    body = json.dumps(json.loads(body_of("paid")) | {"earlier": posed})

    assert workflow.run(delivery(key=None) | {"body": body}).answer[1]["error"] == "webhook-id: is missing"
    assert heal(workflow, requestId="8f7e6d5c") == {"8f7e6d5c": "open"}
    assert workflow.dispatched == []
