"""Only genuine callbacks pay orders: what each check accepts, records and refuses in each of its modes."""

import json
from datetime import timedelta
from typing import Any

import pytest

from callbacks.queues import Lane, lane_of
from tests.outcomes import FAILURE_MESSAGE, body_of
from tests.sources import CHECKS
from tests.workflow.account import CONFIRM_DISPATCH, INVOKE, PROCESS_DIED, Fault, Workflow, client, lambda_error
from tests.workflow.genuine import (
    ORDER,
    OTHER_KEY,
    RECEIVED_AT,
    Bank,
    create_tables,
    delivery,
    forget_secrets,
    put_order,
    put_payment,
    put_secret,
)
from tests.workflow.paths import FAILED, LOOKED_UP, PAID, REPORTS, WARNED


@pytest.fixture(autouse=True)
def _account_beside_the_stack(workflow: Workflow, bank: Bank) -> None:
    """The bank's secret, and the tables of orders and payments."""
    forget_secrets(workflow)
    put_secret({"baseUrl": bank.url, "clientId": "payment3", "clientSecret": "s"})
    create_tables()


def verdicts(workflow: Workflow) -> tuple[str, str, str]:
    (record,) = workflow.records
    return record["signature"], record["crossCheck"], record["inquiry"]


def test_a_check_that_is_off_is_not_run(workflow: Workflow) -> None:
    execution = workflow.run(delivery(key=None))

    assert execution.states == PAID
    assert not set(CHECKS) & set(execution.attempts)
    assert verdicts(workflow) == ("skipped", "skipped", "skipped")


def test_a_callback_that_passes_all_checks_is_dispatched(workflow: Workflow, bank: Bank) -> None:
    workflow.deploy(**dict.fromkeys(CHECKS.values(), "enforce"))
    put_order()
    execution = workflow.run(delivery())

    assert execution.answer[0] == 200
    assert verdicts(workflow) == ("passed", "passed", "passed")
    assert [workflow.functions.attempts[check] for check in CHECKS] == [1, 1, 1]
    assert bank.inquiries == len(workflow.dispatched) == 1
    assert (workflow.errors, workflow.mails) == ([], [])


@pytest.mark.parametrize(
    ("forged", "message"),
    [
        (delivery(key=None), "webhook-id: is missing"),
        (delivery(OTHER_KEY), "signature: does not match"),
        (delivery() | {"body": body_of("paid").replace("2339", "1")}, "signature: does not match"),
        (delivery(signed_at=RECEIVED_AT - timedelta(minutes=6)), "webhook-timestamp: is more than five minutes off"),
        (delivery(key=None, name="malformed"), "webhook-id: is missing"),
        ("not a delivery", "body: is not the text that was signed"),
    ],
    ids=["unsigned", "of another key", "altered", "replayed", "malformed", "not a delivery"],
)
def test_a_forged_callback_is_refused_and_reported_and_changes_nothing(
    workflow: Workflow, forged: Any, message: str
) -> None:
    workflow.deploy(SignatureMode="enforce")
    execution = workflow.run(forged)

    assert execution.states == [
        *("ReceiveDelivery", "IsSignatureVerified?", "VerifySignature", "MayPassUnverified?"),
        *REPORTS,
        *("ReadSignatureMessage", "RespondRefused", "Respond"),
    ]
    assert execution.answer == (500, {"success": False, "error": message, "message": FAILURE_MESSAGE})
    assert (workflow.records, workflow.dispatched) == ([], [])
    (row,) = workflow.errors
    assert (row["step"], row["error"], row["status"]) == ("VerifySignature", "InvalidSignature", "open")
    assert lane_of(row["queue"]) == Lane.OPERATOR
    assert len(workflow.mails) == len(workflow.sentry.events) == 1


def test_in_warn_a_forged_callback_is_recorded_reported_and_dispatched(workflow: Workflow) -> None:
    workflow.deploy(SignatureMode="warn")
    execution = workflow.run(delivery(key=None))

    assert execution.answer[0] == 200
    assert verdicts(workflow)[0] == "failed: InvalidSignature: webhook-id: is missing"
    assert len(workflow.dispatched) == 1
    assert workflow.errors == []
    (mail,) = workflow.mails
    assert mail.subject == "[test] BankApp callback: CheckWarning"
    assert "VerifySignature: failed: InvalidSignature: webhook-id: is missing" in mail.body
    assert [event["fingerprint"][-1] for event in workflow.sentry.events] == ["CheckWarning"]
    assert execution.states[-len(WARNED) - 1 :] == [*WARNED, "RespondDispatched"]


def test_in_warn_a_payment_without_a_confirmed_dispatch_is_reported_before_it_is_confirmed(
    workflow: Workflow,
) -> None:
    workflow.deploy(SignatureMode="warn")
    workflow.aws.refuse(CONFIRM_DISPATCH, "InternalServerError", status=500, times=1)
    execution = workflow.run(delivery(key=None))

    assert execution.states[-len(WARNED) - 2 :] == [*WARNED, "ConfirmDispatch", "RespondDispatched"]
    (record,) = workflow.records
    assert record["dispatchedBy"] == record["deliveryId"]


def test_in_warn_an_unsigned_conflict_passes_the_states_of_an_unsigned_duplicate(workflow: Workflow) -> None:
    workflow.deploy(SignatureMode="warn")
    first = workflow.run(delivery(key=None) | {"requestId": "request-1"})
    duplicate = workflow.run(delivery(key=None) | {"requestId": "request-2"})
    altered = body_of("paid").replace("2339", "1")
    conflict = workflow.run(delivery(key=None) | {"requestId": "request-3", "body": altered})

    assert duplicate.states == [*first.states[:-1], "ConfirmDispatch", "RespondDispatched"]
    assert [state for state in conflict.states if state not in {"MayConflictBeRevealed?", "AnswerLikeDuplicate"}] == [
        *first.states[:-1],
        *("ReportConflictApart", "RespondDispatched"),
    ]
    assert conflict.answer == duplicate.answer
    assert [record.get("dispatchedBy") for record in workflow.records] == [workflow.records[0]["deliveryId"]] * 2 + [
        None
    ]
    assert [error["error"] for error in workflow.errors] == ["PaymentConflict"]


def test_in_warn_no_verdict_of_a_check_stops_a_payment(workflow: Workflow, bank: Bank) -> None:
    workflow.deploy(**dict.fromkeys(CHECKS.values(), "warn"))
    client("secretsmanager").delete_secret(SecretId="kbank-test", ForceDeleteWithoutRecovery=True)
    bank.http_status = 500
    execution = workflow.run(delivery())

    assert execution.answer[0] == 200
    assert len(workflow.dispatched) == 1
    assert verdicts(workflow)[1] == "failed: OrderNotFound: The order does not exist, or not yet"


FAULTS: dict[str, Fault] = {
    "killed": PROCESS_DIED,
    "throttled": lambda_error("TooManyRequestsException", 429),
    "timeout": TimeoutError(),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_in_warn_a_failed_check_stops_no_payment_and_is_reported(workflow: Workflow, fault: Fault) -> None:
    workflow.deploy(**dict.fromkeys(CHECKS.values(), "warn"))
    for check in CHECKS:
        workflow.functions.fail(check, fault)
    execution = workflow.run(delivery())

    assert execution.answer[0] == 200
    assert len(workflow.dispatched) == 1
    assert workflow.errors == []
    (record,) = workflow.records
    assert "dispatchedBy" in record
    (verdict,) = set(verdicts(workflow))
    assert verdict in {"failed: Runtime.ExitError", "failed: Lambda.TooManyRequestsException", "failed: States.Timeout"}
    (mail,) = workflow.mails
    assert f"VerifySignature: {verdict}; CrossCheckPayment: {verdict}; InquirePayment: {verdict}" in mail.body


def test_a_failure_after_failed_checks_in_warn_names_its_own_state(workflow: Workflow) -> None:
    workflow.deploy(**dict.fromkeys(CHECKS.values(), "warn"))
    for state in (*CHECKS, "InvokeProcessPaid"):
        workflow.functions.fail(state, PROCESS_DIED)
    execution = workflow.run(delivery())

    assert execution.answer[0] == 500
    (row,) = workflow.errors
    assert (row["step"], row["error"]) == ("InvokeProcessPaid", "Runtime.ExitError")


@pytest.mark.parametrize(
    ("check", "fault"),
    [
        *(pytest.param("VerifySignature", fault, id=f"VerifySignature {name}") for name, fault in FAULTS.items()),
        pytest.param("CrossCheckPayment", FAULTS["killed"], id="CrossCheckPayment killed"),
        pytest.param("InquirePayment", FAULTS["killed"], id="InquirePayment killed"),
    ],
)
def test_in_enforce_a_failed_check_lets_nothing_pass(workflow: Workflow, check: str, fault: Fault) -> None:
    workflow.deploy(**dict.fromkeys(CHECKS.values(), "warn") | {CHECKS[check]: "enforce"})
    workflow.functions.fail(check, fault)
    execution = workflow.run(delivery())

    assert execution.answer[0] == 500
    assert workflow.dispatched == []
    (row,) = workflow.errors
    assert (row["step"], row["status"]) == (check, "open")
    assert lane_of(row["queue"]) == Lane.HEALING


@pytest.mark.parametrize("check", CHECKS)
def test_a_misspelt_mode_lets_nothing_pass(workflow: Workflow, check: str) -> None:
    workflow.deploy(**{CHECKS[check]: "enforced"})
    put_order()
    execution = workflow.run(delivery())

    assert execution.answer[0] == 500
    assert [(row["step"], row["error"]) for row in workflow.errors] == [(check, "ConfigurationError")]
    assert workflow.dispatched == []


@pytest.mark.parametrize("mode", ["SignatureMode", "InquiryMode"])
def test_a_check_without_its_secret_lets_nothing_pass(workflow: Workflow, mode: str) -> None:
    workflow.deploy(**{mode: "enforce", "BankSecretName": "nowhere"})
    execution = workflow.run(delivery())

    assert execution.answer[0] == 500
    assert workflow.dispatched == []


def test_a_check_without_its_table_lets_nothing_pass(workflow: Workflow) -> None:
    workflow.deploy(CrossCheckMode="enforce", OrderTableName="nowhere")
    execution = workflow.run(delivery())

    assert execution.answer[0] == 500
    assert workflow.dispatched == []


def test_a_signed_callback_is_redriven_long_after_it_was_signed(workflow: Workflow) -> None:
    workflow.deploy(SignatureMode="enforce")
    workflow.aws.refuse(INVOKE, "ServiceException", status=500, times=2)
    workflow.run(delivery())
    workflow.heal()

    assert [row["status"] for row in workflow.errors] == ["resolved"]
    assert len(workflow.dispatched) == 1


def test_a_signed_callback_with_an_unconfirmed_dispatch_is_verified_again(workflow: Workflow) -> None:
    workflow.deploy(SignatureMode="enforce")
    workflow.aws.refuse(CONFIRM_DISPATCH, "InternalServerError", status=500, times=3)
    workflow.run(delivery())
    workflow.heal()

    assert verdicts(workflow)[0] == "passed"
    assert [row["status"] for row in workflow.errors] == ["resolved"]
    assert len(workflow.dispatched) == 1


def test_healing_dispatches_no_record_that_was_never_signed(workflow: Workflow) -> None:
    workflow.aws.refuse(INVOKE, "ServiceException", status=500, times=2)
    workflow.run(delivery(key=None))
    workflow.deploy(SignatureMode="enforce")
    workflow.heal()

    assert [(row["error"], row["status"]) for row in workflow.errors] == [("InvalidSignature", "open")]
    assert workflow.dispatched == []


def test_the_check_waits_a_moment_for_an_order(workflow: Workflow) -> None:
    workflow.deploy(CrossCheckMode="enforce")
    workflow.aws.run_after(("GetItem", '"order-table-dev"'), put_order)
    execution = workflow.run(delivery())

    assert execution.attempts["CrossCheckPayment"] == 2
    assert execution.waits == [1]
    assert execution.answer[0] == 200
    assert verdicts(workflow)[1] == "passed"


def test_an_order_that_comes_much_later_is_left_to_healing(workflow: Workflow) -> None:
    workflow.deploy(CrossCheckMode="enforce")
    execution = workflow.run(delivery())
    assert execution.answer[0] == 500
    assert [(row["error"], row["status"]) for row in workflow.errors] == [("OrderNotFound", "open")]
    put_order()
    workflow.heal()

    assert [row["status"] for row in workflow.errors] == ["resolved"]
    assert len(workflow.dispatched) == 1


def test_a_payment_that_has_to_be_on_record_is_waited_for(workflow: Workflow) -> None:
    workflow.deploy(CrossCheckMode="enforce", PaymentRequired="true")
    put_order()
    execution = workflow.run(delivery(key=None))
    assert (execution.answer[0], execution.waits) == (500, [1])
    (row,) = workflow.errors
    assert (row["step"], row["error"]) == ("CrossCheckPayment", "PaymentNotFound")
    assert lane_of(row["queue"]) == Lane.UNCONFIRMED
    put_payment(orderId=ORDER["orderId"], amount=2339)
    workflow.heal()

    assert [row["status"] for row in workflow.errors] == ["resolved"]
    assert len(workflow.dispatched) == 1


# What is on record, of the order and of the payment, and why it does not agree; None for an order that does not exist.
CONTRADICTIONS: list[tuple[dict[str, Any] | None, dict[str, Any] | None, str]] = [
    ({"userId": "somebody else"}, None, "userId: is not the order's"),
    ({"total": 2340}, None, "amount: is not the order's total"),
    ({}, {"orderId": "another", "amount": 2339}, "paymentId: is recorded for another order"),
    ({}, {"orderId": ORDER["orderId"], "amount": 1}, "paymentId: is recorded with another amount"),
]


@pytest.mark.parametrize(("order", "payment", "cause"), CONTRADICTIONS)
def test_a_callback_that_contradicts_our_data_waits_for_an_operator(
    workflow: Workflow, order: dict[str, Any], payment: dict[str, Any] | None, cause: str
) -> None:
    workflow.deploy(CrossCheckMode="enforce")
    put_order(**order)
    if payment:
        put_payment(**payment)
    execution = workflow.run(delivery())

    assert execution.answer[0] == 500
    (row,) = workflow.errors
    assert (row["step"], row["error"], row["status"]) == ("CrossCheckPayment", "PaymentMismatch", "open")
    assert json.loads(row["cause"])["errorMessage"] == cause
    assert lane_of(row["queue"]) == Lane.OPERATOR
    assert len(workflow.records) == 1
    assert workflow.dispatched == []


@pytest.mark.parametrize("required", ["false", "true"])
@pytest.mark.parametrize(("order", "payment", "_"), [*CONTRADICTIONS, (None, None, "")])
def test_neither_answer_nor_time_tells_an_unknown_order_from_a_contradicted_one(
    workflow: Workflow, order: dict[str, Any] | None, payment: dict[str, Any] | None, _: str, required: str
) -> None:
    workflow.deploy(CrossCheckMode="enforce", PaymentRequired=required)
    if order is not None:
        put_order(**order)
    if payment:
        put_payment(**payment)
    execution = workflow.run(delivery(key=None))

    error = f"Internal error, request id {execution.name}"
    assert execution.answer == (500, {"success": False, "error": error, "message": FAILURE_MESSAGE})
    assert execution.waits == [1]
    assert execution.attempts["CrossCheckPayment"] == 2
    # How many calls an attempt makes is in tests/unit/test_cross_check_payment.py.
    assert execution.states == [*LOOKED_UP, "CrossCheckPayment", "MayPassUncompared?", *FAILED]


def test_healing_inquires_again_about_a_payment_the_bank_had_not_confirmed(workflow: Workflow, bank: Bank) -> None:
    workflow.deploy(InquiryMode="enforce")
    bank.status = "PENDING"
    assert workflow.run(delivery()).answer[0] == 500
    workflow.heal()
    assert [(row["error"], row["status"]) for row in workflow.errors] == [("PaymentNotConfirmed", "open")]
    assert workflow.dispatched == []
    bank.status = "PAID"
    workflow.heal()

    assert [row["status"] for row in workflow.errors] == ["resolved"]
    assert len(workflow.dispatched) == 1


def test_a_payment_with_another_amount_than_the_banks_waits_for_an_operator(workflow: Workflow, bank: Bank) -> None:
    workflow.deploy(InquiryMode="enforce")
    bank.amount = "1.00"
    assert workflow.run(delivery()).answer[0] == 500
    assert "results" not in workflow.heal().output

    assert [(row["error"], row["status"]) for row in workflow.errors] == [("PaymentMismatch", "open")]
    assert workflow.dispatched == []


def test_healing_inquires_again_if_the_bank_failed(workflow: Workflow, bank: Bank) -> None:
    workflow.deploy(InquiryMode="enforce")
    bank.http_status = 503
    execution = workflow.run(delivery())
    assert (execution.answer[0], execution.attempts["InquirePayment"]) == (500, 1)
    bank.http_status = 200
    workflow.heal()

    assert len(workflow.dispatched) == 1
