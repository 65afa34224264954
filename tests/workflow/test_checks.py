"""Only genuine callbacks pay orders: what each check lets through, notes and refuses, in each of its modes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from tests.outcomes import FAILURE_MESSAGE, body_of
from tests.sources import CHECKS
from tests.workflow.account import INVOKE, PROCESS_DIED, Workflow, client, lambda_error
from tests.workflow.genuine import (
    ORDER,
    OTHER_KEY,
    RECEIVED_AT,
    create_tables,
    delivery,
    forget_secrets,
    put_order,
    put_payment,
    put_secret,
)
from tests.workflow.paths import PAID, REPORTS


@dataclass
class Bank:
    """The bank's own interface."""

    url: str
    status: str = "PAID"
    amount: str = "2339.00"
    http_status: int = 200
    inquiries: int = 0


@pytest.fixture
def bank() -> Iterator[Bank]:
    class Counter(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            token = {"access_token": "t", "expires_in": 0}
            answer = {"status": bank.status, "amount": bank.amount}
            is_inquiry = self.path.endswith("/inquiry")
            bank.inquiries += is_inquiry
            self.send_response(bank.http_status)
            self.end_headers()
            self.wfile.write(json.dumps(answer if is_inquiry else token).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Counter)
    bank = Bank(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield bank
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def known(workflow: Workflow, bank: Bank, request: pytest.FixtureRequest) -> None:  # noqa: ARG001
    """What the account has beside the stack: the bank's secret, orders and payments."""
    forget_secrets(workflow)
    put_secret({"baseUrl": bank.url, "clientId": "payment3", "clientSecret": "s"})
    create_tables()


def notes(workflow: Workflow) -> tuple[str, str, str]:
    (record,) = workflow.records
    return record["signature"], record["crossCheck"], record["inquiry"]


def test_a_check_that_is_off_is_not_run(workflow: Workflow) -> None:
    execution = workflow.run(delivery(key=None))

    assert execution.states == PAID
    assert not set(CHECKS) & set(execution.attempts)
    assert notes(workflow) == ("off", "off", "off")


def test_what_passes_all_checks_is_paid_and_says_so(workflow: Workflow, bank: Bank) -> None:
    workflow.deploy(**dict.fromkeys(CHECKS.values(), "enforce"))
    put_order()
    execution = workflow.run(delivery())

    assert execution.answer[0] == 200
    assert notes(workflow) == ("passed", "passed", "passed")
    assert [workflow.functions.attempts[check] for check in CHECKS] == [1, 1, 1]
    assert bank.inquiries == len(workflow.processed) == 1
    assert (workflow.errors, workflow.mails) == ([], [])


@pytest.mark.parametrize(
    ("forged", "message"),
    [
        (delivery(key=None), "webhook-id: is missing"),
        (delivery(OTHER_KEY), "signature: does not match"),
        (delivery() | {"body": body_of("paid").replace("2339", "1")}, "signature: does not match"),
        (delivery(signed_at=RECEIVED_AT - timedelta(minutes=6)), "webhook-timestamp: is more than five minutes off"),
        (delivery(key=None, name="malformed"), "webhook-id: is missing"),
        ("no delivery at all", "body: is not the text that was signed"),
    ],
    ids=["unsigned", "of another key", "altered", "replayed", "malformed", "of another shape"],
)
def test_a_forged_callback_is_refused_and_reported_and_touches_nothing(
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
    assert (workflow.records, workflow.processed) == ([], [])
    (row,) = workflow.errors
    assert (row["step"], row["error"], row["status"]) == ("VerifySignature", "InvalidSignature", "open")
    assert "nextAttemptAt" not in row
    assert len(workflow.mails) == len(workflow.sentry.events) == 1


def test_in_warn_a_forged_callback_is_noted_and_reported_and_goes_on(workflow: Workflow) -> None:
    workflow.deploy(SignatureMode="warn")
    execution = workflow.run(delivery(key=None))

    assert execution.answer[0] == 200
    assert notes(workflow)[0] == "failed: InvalidSignature: webhook-id: is missing"
    assert len(workflow.processed) == 1
    assert workflow.errors == []
    (mail,) = workflow.mails
    assert mail.subject == "[test] BankApp callback failed: CheckWarning"
    assert "VerifySignature: failed: InvalidSignature: webhook-id: is missing" in mail.body
    assert [event["fingerprint"][-1] for event in workflow.sentry.events] == ["CheckWarning"]


def test_in_warn_nothing_that_a_check_meets_stops_a_payment(workflow: Workflow, bank: Bank) -> None:
    workflow.deploy(**dict.fromkeys(CHECKS.values(), "warn"))
    client("secretsmanager").delete_secret(SecretId="kbank-test", ForceDeleteWithoutRecovery=True)
    bank.http_status = 500
    execution = workflow.run(delivery())

    assert execution.answer[0] == 200
    assert len(workflow.processed) == 1
    assert notes(workflow)[1] == "failed: OrderNotFound: The order does not exist, or not yet"


FAULTS: list[Exception | dict[str, str]] = [PROCESS_DIED, lambda_error("TooManyRequestsException", 429), TimeoutError()]
IDS = ["killed", "throttled", "late"]


@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
def test_in_warn_a_function_that_fails_stops_no_payment_and_is_reported(
    workflow: Workflow, fault: Exception | dict[str, str]
) -> None:
    workflow.deploy(**dict.fromkeys(CHECKS.values(), "warn"))
    for check in CHECKS:
        workflow.functions.fail(check, fault)
    execution = workflow.run(delivery())

    assert execution.answer[0] == 200
    assert len(workflow.processed) == 1
    assert workflow.errors == []
    (record,) = workflow.records
    assert "dispatchedBy" in record
    (note,) = set(notes(workflow))
    assert note in {"failed: Runtime.ExitError", "failed: Lambda.TooManyRequestsException", "failed: States.Timeout"}
    (mail,) = workflow.mails
    assert f"VerifySignature: {note}; CrossCheckPayment: {note}; InquirePayment: {note}" in mail.body


def test_a_failure_after_checks_that_failed_in_warn_names_its_own_state(workflow: Workflow) -> None:
    workflow.deploy(**dict.fromkeys(CHECKS.values(), "warn"))
    for state in (*CHECKS, "InvokeProcessPaid"):
        workflow.functions.fail(state, FAULTS[0])
    execution = workflow.run(delivery())

    assert execution.answer[0] == 500
    (row,) = workflow.errors
    assert (row["step"], row["error"]) == ("InvokeProcessPaid", "Runtime.ExitError")


@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
@pytest.mark.parametrize("check", CHECKS)
def test_in_enforce_a_function_that_fails_lets_nothing_pass(
    workflow: Workflow, check: str, fault: Exception | dict[str, str]
) -> None:
    workflow.deploy(**dict.fromkeys(CHECKS.values(), "warn") | {CHECKS[check]: "enforce"})
    workflow.functions.fail(check, fault)
    execution = workflow.run(delivery())

    assert execution.answer[0] == 500
    assert workflow.processed == []
    (row,) = workflow.errors
    assert (row["step"], row["status"]) == (check, "open")
    assert "nextAttemptAt" in row


@pytest.mark.parametrize("check", CHECKS)
def test_a_mode_that_is_misspelt_lets_nothing_pass(workflow: Workflow, check: str) -> None:
    workflow.deploy(**{CHECKS[check]: "enforced"})
    put_order()
    execution = workflow.run(delivery())

    assert execution.answer[0] == 500
    assert [(row["step"], row["error"]) for row in workflow.errors] == [(check, "ConfigurationError")]
    assert workflow.processed == []


@pytest.mark.parametrize("mode", ["SignatureMode", "InquiryMode"])
def test_a_check_without_its_secret_lets_nothing_pass(workflow: Workflow, mode: str) -> None:
    workflow.deploy(**{mode: "enforce", "BankSecretName": "nowhere"})
    execution = workflow.run(delivery())

    assert execution.answer[0] == 500
    assert workflow.processed == []


def test_a_check_without_its_table_lets_nothing_pass(workflow: Workflow) -> None:
    workflow.deploy(CrossCheckMode="enforce", OrderTableName="nowhere")
    execution = workflow.run(delivery())

    assert execution.answer[0] == 500
    assert workflow.processed == []


def test_a_signed_callback_is_run_again_long_after_its_signature_was_made(workflow: Workflow) -> None:
    workflow.deploy(SignatureMode="enforce")
    workflow.wire.refuse(INVOKE, "ServiceException", status=500, times=2)
    workflow.run(delivery())
    workflow.heal()

    assert [row["status"] for row in workflow.errors] == ["resolved"]
    assert len(workflow.processed) == 1


def test_a_signed_callback_whose_execution_was_lost_is_verified_again(workflow: Workflow) -> None:
    workflow.deploy(SignatureMode="enforce")
    workflow.wire.refuse(("UpdateItem", "dispatchedBy"), "InternalServerError", status=500, times=2)
    workflow.run(delivery())
    workflow.heal()

    assert notes(workflow)[0] == "passed"
    assert [row["status"] for row in workflow.errors] == ["resolved"]
    assert len(workflow.processed) == 1


def test_a_record_that_was_never_signed_is_not_paid_by_healing(workflow: Workflow) -> None:
    workflow.wire.refuse(INVOKE, "ServiceException", status=500, times=2)
    workflow.run(delivery(key=None))
    workflow.deploy(SignatureMode="enforce")
    workflow.heal()

    assert [(row["error"], row["status"]) for row in workflow.errors] == [("InvalidSignature", "open")]
    assert workflow.processed == []


def test_an_order_that_is_there_a_moment_later_is_waited_for(workflow: Workflow) -> None:
    workflow.deploy(CrossCheckMode="enforce")
    workflow.wire.follow(("GetItem", '"order-table-dev"'), put_order)
    execution = workflow.run(delivery())

    assert execution.attempts["CrossCheckPayment"] == 2
    assert execution.waits == [1]
    assert execution.answer[0] == 200
    assert notes(workflow)[1] == "passed"


def test_an_order_that_comes_much_later_is_left_to_healing(workflow: Workflow) -> None:
    workflow.deploy(CrossCheckMode="enforce")
    execution = workflow.run(delivery())
    assert execution.answer[0] == 500
    assert [(row["error"], row["status"]) for row in workflow.errors] == [("OrderNotFound", "open")]
    put_order()
    workflow.heal()

    assert [row["status"] for row in workflow.errors] == ["resolved"]
    assert len(workflow.processed) == 1


@pytest.mark.parametrize(
    ("order", "payment", "cause"),
    [
        ({"userId": "somebody else"}, None, "userId: is not the order's"),
        ({"total": 2340}, None, "amount: is not the order's total"),
        ({}, {"orderId": "another", "amount": 2339}, "paymentId: is recorded for another order"),
        ({}, {"orderId": ORDER["orderId"], "amount": 1}, "paymentId: is recorded with another amount"),
    ],
)
def test_a_callback_that_contradicts_what_we_know_waits_for_a_person_and_learns_nothing(
    workflow: Workflow, order: dict[str, Any], payment: dict[str, Any] | None, cause: str
) -> None:
    workflow.deploy(CrossCheckMode="enforce")
    put_order(**order)
    if payment:
        put_payment(**payment)
    execution = workflow.run(delivery())

    assert execution.answer[0] == 500
    assert execution.answer[1]["error"].startswith("Internal error")
    (row,) = workflow.errors
    assert (row["step"], row["error"], row["status"]) == ("CrossCheckPayment", "PaymentMismatch", "open")
    assert json.loads(row["cause"])["errorMessage"] == cause
    assert "nextAttemptAt" not in row
    assert len(workflow.records) == 1
    assert workflow.processed == []


def test_a_payment_that_the_bank_does_not_know_yet_is_asked_for_again_by_healing(
    workflow: Workflow, bank: Bank
) -> None:
    workflow.deploy(InquiryMode="enforce")
    bank.status = "PENDING"
    assert workflow.run(delivery()).answer[0] == 500
    workflow.heal()
    assert [(row["error"], row["status"]) for row in workflow.errors] == [("PaymentNotConfirmed", "open")]
    assert workflow.processed == []
    bank.status = "PAID"
    workflow.heal()

    assert [row["status"] for row in workflow.errors] == ["resolved"]
    assert len(workflow.processed) == 1


def test_a_payment_of_another_amount_than_the_bank_knows_waits_for_a_person(workflow: Workflow, bank: Bank) -> None:
    workflow.deploy(InquiryMode="enforce")
    bank.amount = "1.00"
    assert workflow.run(delivery()).answer[0] == 500
    assert workflow.heal().output["results"] == []

    assert [(row["error"], row["status"]) for row in workflow.errors] == [("PaymentMismatch", "open")]
    assert workflow.processed == []


def test_a_bank_that_fails_is_asked_again_by_healing(workflow: Workflow, bank: Bank) -> None:
    workflow.deploy(InquiryMode="enforce")
    bank.http_status = 503
    execution = workflow.run(delivery())
    assert (execution.answer[0], execution.attempts["InquirePayment"]) == (500, 1)
    bank.http_status = 200
    workflow.heal()

    assert len(workflow.processed) == 1
