"""A payment for which process-paid failed for good becomes a failure, is reported, and can be dispatched again."""

import json
from typing import Any

import pytest

from callbacks.failure import Failure
from callbacks.queues import Lane, lane_of
from tests.outcomes import body_of
from tests.sources import FUNCTIONS, RESOURCES, table
from tests.unit.kit import PAID, BeforeCall, Json, Load, Log, Put, Service, Table, TableOf, Task, from_now, items, only

DELIVERY_ID = "2026-11-22T10:00:00.000Z#8f7e6d5c"
KEY = {"orderKey": "BankApp#482500007436", "paymentId": "pay_bankapp_123"}
RECORDS = table("WalletCallbackRecordTable")["TableName"]
SENTRY, EMAIL = "payment3-ReportToSentry-test", "payment3-SendErrorEmail-test"
CAUSE = "Lambda gave up: RetriesExhausted; invocations of process-paid: 3; error: KeyError"


@pytest.fixture
def task(load: Load, tables: dict[str, str], service: Service) -> Task:  # noqa: ARG001
    """The task with moto's DynamoDB and a Lambda that accepts every event."""
    service.answers(202)
    return load("reopen_payment", AWS_ENDPOINT_URL_LAMBDA=service.url, RECORD_TABLE=RECORDS)


SIGNATURE = {"webhook-id": "msg_1", "webhook-signature": "v1,c2lnbmVk"}


@pytest.fixture
def ledger(table_of: TableOf) -> Table:
    return table_of("PaymentLedgerTable")


@pytest.fixture
def dispatched(ledger: Table, records: Table, callback: Json) -> Put:
    """Record a delivery, and put its payment into the ledger as dispatched by request-1; None leaves one out."""

    def put(**changes: Any) -> Json:
        known = ("orderId", "paymentId", "userId", "success", "requestId", "receivedAt", "deliveryId")
        record = {name: callback[name] for name in known} | {name: PAID[name] for name in ("body", "sourceIp")}
        received = {"extra": "{}", "signatureHeaders": json.dumps(SIGNATURE)}
        records.put_item(
            Item={**record, **received, "channel": "BankApp", "executionArn": "arn", "signature": "passed"}
        )
        payment = {
            **KEY,
            "userDigest": "u",
            "amountDigest": "a",
            "dispatches": 1,
            "dispatchedBy": DELIVERY_ID,
            "dispatchedAt": "2026-11-22T10:00:01.000Z",
            "invokeRequestId": "request-1",
            **changes,
        }
        payment = {name: value for name, value in payment.items() if value is not None}
        ledger.put_item(Item=payment)
        return payment

    return put


def invocation(request_id: str = "request-1", **changes: Any) -> Json:
    """Return Lambda's record of an asynchronous invocation that failed for good."""
    return {
        "version": "1.0",
        "timestamp": "2026-11-22T10:03:05.568Z",
        "requestContext": {
            "requestId": request_id,
            "functionArn": "arn:aws:lambda:ap-southeast-1:123456789012:function:process-paid:$LATEST",
            "condition": "RetriesExhausted",
            "approximateInvokeCount": 3,
        },
        "requestPayload": json.loads(body_of("paid")),
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
        "responsePayload": {"errorMessage": "No user b5f392f7", "errorType": "KeyError", "stackTrace": []},
        **changes,
    }


def deliver(task: Task, *bodies: object) -> list[str]:
    """Deliver messages, numbered from 1, as the event source mapping does; return those that failed."""
    texts = [body if isinstance(body, str) else json.dumps(body) for body in bodies]
    messages = [{"messageId": str(number), "body": text} for number, text in enumerate(texts, 1)]
    return [failure["itemIdentifier"] for failure in task.handler({"Records": messages}, None)["batchItemFailures"]]


def reports(service: Service) -> list[tuple[str, Json]]:
    return [(request.path.split("/")[3], json.loads(request.body)) for request in service.requests]


def test_a_failed_dispatch_becomes_a_failure_that_healing_redrives(
    task: Task, dispatched: Put, error_log: Table
) -> None:
    dispatched()
    assert deliver(task, invocation()) == []
    item = only(error_log)
    assert json.loads(item.pop("event")) == {
        "body": body_of("paid"),
        "requestId": "8f7e6d5c",
        "receivedAt": 1795341600000,
        "sourceIp": "203.0.113.7",
        "headers": SIGNATURE,
    }
    assert item.pop("queuedAt") > item.pop("occurredAt") > "2026-11-22"
    assert item == {
        "requestId": "8f7e6d5c",
        "functionName": "bankappcallback",
        "receivedAt": "2026-11-22T10:00:00.000Z",
        "channel": "BankApp",
        "executionArn": "arn",
        "step": "ProcessPaid",
        "error": "ProcessPaidFailed",
        "cause": CAUSE,
        "orderId": "482500007436",
        "chargeId": "pay_bankapp_123",
        "status": "open",
        "attempts": 0,
        "lane": "healing",
        "queue": "BankApp#3#healing",
        "verdicts": {"VerifySignature": "passed"},
    }


def test_a_failed_dispatch_is_taken_back_in_the_ledger(task: Task, dispatched: Put, ledger: Table) -> None:
    dispatched()
    deliver(task, invocation())
    assert only(ledger) == {
        **KEY,
        "userDigest": "u",
        "amountDigest": "a",
        "dispatches": 0,
        "failedRequestId": "request-1",
    }


def test_a_failed_dispatch_is_reported_as_a_failed_execution_is(
    task: Task, dispatched: Put, error_log: Table, service: Service
) -> None:
    dispatched()
    deliver(task, invocation())
    assert [request.headers["X-Amz-Invocation-Type"] for request in service.requests] == ["Event", "Event"]
    (sentry, event), (email, same) = reports(service)
    assert (sentry, email) == (SENTRY, EMAIL)
    assert event == same
    failure, item = Failure.from_event(event), only(error_log)
    assert failure.kind == ("bankappcallback", "ProcessPaid", "ProcessPaidFailed")
    assert (failure.message, failure.execution_arn) == (CAUSE, "arn")
    assert (failure.request_id, failure.order_id, failure.charge_id) == ("8f7e6d5c", item["orderId"], item["chargeId"])
    assert (failure.received_at, failure.occurred_at) == (item["receivedAt"], item["occurredAt"])
    assert failure.event == json.loads(item["event"])


@pytest.mark.parametrize("report", [SENTRY, EMAIL])
def test_a_report_that_cannot_be_started_costs_only_itself(
    task: Task, dispatched: Put, ledger: Table, service: Service, report: str
) -> None:
    dispatched()
    answer = json.dumps({"Type": "User", "Message": "no"}).encode()
    service.answers_at(f"/2015-03-31/functions/{report}/invocations", answer, 403)
    assert deliver(task, invocation()) == []
    assert {function for function, _ in reports(service)} == {SENTRY, EMAIL}
    assert only(ledger)["failedRequestId"] == "request-1"


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        (
            {
                "requestContext": {
                    "requestId": "request-1",
                    "condition": "EventAgeExceeded",
                    "approximateInvokeCount": 1,
                }
            },
            "Lambda gave up: EventAgeExceeded; invocations of process-paid: 1; error: KeyError",
        ),
        (
            {"requestContext": {"requestId": "request-1"}, "responsePayload": None},
            "Lambda gave up: unknown; invocations of process-paid: unknown; error: unknown",
        ),
        (
            {"responsePayload": {"errorMessage": "No user b5f392f7"}},
            "Lambda gave up: RetriesExhausted; invocations of process-paid: 3; error: unknown",
        ),
        (
            {"responsePayload": {"errorType": "E" * 101}},
            f"Lambda gave up: RetriesExhausted; invocations of process-paid: 3; error: {'E' * 100}",
        ),
    ],
    ids=["too old", "no details", "no type", "long type"],
)
def test_the_cause_says_why_lambda_gave_up_but_not_the_errors_message(
    task: Task, dispatched: Put, error_log: Table, changes: Json, cause: str
) -> None:
    dispatched()
    assert deliver(task, invocation(**changes)) == []
    assert only(error_log)["cause"] == cause


# Messages that change nothing


@pytest.mark.parametrize(
    "payment",
    [
        None,
        {"invokeRequestId": "request-2", "dispatches": 2},
        {"failedRequestId": "request-1", "invokeRequestId": None, "dispatchedBy": None},
        {"failedRequestId": "request-1", "claimedBy": "another", "invokeRequestId": None, "dispatchedBy": None},
        {"invokeRequestId": None, "dispatchedBy": None, "dispatches": 0},
    ],
    ids=["unknown", "dispatched again", "reopened", "reopened and claimed", "released"],
)
def test_a_request_that_is_not_the_latest_dispatch_changes_nothing(
    task: Task, dispatched: Put, ledger: Table, error_log: Table, service: Service, payment: Json | None
) -> None:
    if payment is not None:
        dispatched(**payment)
    before = items(ledger)
    assert deliver(task, invocation()) == []
    assert (items(ledger), items(error_log), service.requests) == (before, [], [])


@pytest.mark.parametrize("payload", [None, "text", [], {"orderId": "482500007436"}, {"order": {"id": 1}}], ids=str)
def test_an_event_of_another_caller_changes_nothing(
    task: Task, dispatched: Put, ledger: Table, log: Log, payload: object
) -> None:
    before = dispatched()
    assert deliver(task, invocation(requestPayload=payload)) == []
    assert items(ledger) == [before]
    (line,) = log()
    assert line["message"] == "Not the latest dispatch of a payment"


def test_a_message_that_is_delivered_twice_is_handled_once(
    task: Task, dispatched: Put, error_log: Table, ledger: Table, service: Service
) -> None:
    dispatched()
    deliver(task, invocation())
    after = items(error_log), items(ledger), len(service.requests)
    assert deliver(task, invocation()) == []
    assert (items(error_log), items(ledger), len(service.requests)) == after


# Messages that fail, and are delivered again


@pytest.mark.parametrize(
    "payment",
    [
        {"claimedBy": DELIVERY_ID, "invokeRequestId": None, "dispatchedBy": None},
        {"claimedBy": "another", "claimedUntil": "2020-01-01T00:00:00.000Z", "dispatches": 2},
        {"invokeRequestId": None},
    ],
    ids=["being dispatched", "decided", "dispatched by an unknown request"],
)
def test_a_payment_whose_latest_dispatch_is_uncertain_waits(
    task: Task, dispatched: Put, ledger: Table, error_log: Table, service: Service, payment: Json
) -> None:
    before = dispatched(**payment)
    assert deliver(task, invocation()) == ["1"]
    assert (items(ledger), items(error_log), service.requests) == ([before], [], [])


@pytest.mark.parametrize("body", ["", "null", "[]", "{}", '{"requestContext": {}}', '{"requestContext": null}'])
def test_a_message_that_cannot_be_understood_fails_alone(
    task: Task, dispatched: Put, error_log: Table, log: Log, body: str
) -> None:
    dispatched()
    assert deliver(task, body, invocation(), body) == ["1", "3"]
    assert only(error_log)["status"] == "open"
    assert [line["messageId"] for line in log() if line["level"] == "WARNING"] == ["1", "3"]


def test_a_payment_is_not_reopened_while_its_delivery_is_being_redriven(
    task: Task, dispatched: Put, ledger: Table, error_log: Table, failed: Put, service: Service
) -> None:
    payment, row = dispatched(), failed(status="redriven", attempts=1)
    assert deliver(task, invocation()) == ["1"]
    assert (items(ledger), items(error_log), service.requests) == ([payment], [row], [])


@pytest.mark.parametrize("status", [None, "resolved", "open"], ids=str)
def test_a_payment_is_not_reopened_if_a_redrive_starts_meanwhile(
    task: Task,
    dispatched: Put,
    ledger: Table,
    error_log: Table,
    failed: Put,
    before_call: BeforeCall,
    status: str | None,
) -> None:
    payment = dispatched()
    if status is not None:
        failed(status=status)
    before_call(task.ErrorLog, "UpdateItem", lambda: failed(status="redriven", attempts=1))
    assert deliver(task, invocation()) == ["1"]
    assert items(ledger) == [payment]
    assert only(error_log)["status"] == "redriven"


def test_a_payment_that_is_claimed_meanwhile_is_not_reopened(
    task: Task, dispatched: Put, ledger: Table, before_call: BeforeCall, log: Log
) -> None:
    dispatched()
    before_call(
        task.ledger.Payments, "UpdateItem", lambda: dispatched(claimedBy="another", claimedUntil="2999", dispatches=2)
    )
    assert deliver(task, invocation()) == []
    assert only(ledger)["claimedBy"] == "another"
    assert log()[-1]["isReopened"] is False


@pytest.mark.parametrize("status", ["redriven", "resolved", "open"])
def test_a_failure_that_is_redriven_before_the_payment_is_reopened_is_open(
    task: Task,
    dispatched: Put,
    ledger: Table,
    error_log: Table,
    failed: Put,
    before_call: BeforeCall,
    status: str,
) -> None:
    """The redrive may have found the payment dispatched, and must not resolve the failure."""
    dispatched()
    before_call(task.ledger.Payments, "UpdateItem", lambda: failed(status=status, attempts=1))
    assert deliver(task, invocation()) == []
    assert only(ledger)["failedRequestId"] == "request-1"
    item = only(error_log)
    assert (item["status"], item["attempts"]) == ("open", 2)
    assert from_now(minutes=19) < item["queuedAt"] <= from_now(minutes=20)


def test_a_redrive_that_starts_after_the_reopening_keeps_its_failure(
    task: Task, dispatched: Put, error_log: Table, failed: Put, before_call: BeforeCall
) -> None:
    dispatched()

    def redrive() -> None:
        failed(status="open", attempts=1)
        before_call(task.ErrorLog, "UpdateItem", lambda: failed(status="redriven", attempts=2))

    before_call(task.ledger.Payments, "UpdateItem", redrive)
    assert deliver(task, invocation()) == []
    assert (only(error_log)["status"], only(error_log)["attempts"]) == ("redriven", 2)


# The end


@pytest.mark.parametrize(("attempts", "minutes"), [(1, 10), (7, 640)])
def test_a_resolved_failure_is_opened_again_and_waits_longer(
    task: Task, dispatched: Put, error_log: Table, failed: Put, attempts: int, minutes: int
) -> None:
    dispatched()
    failed(None, status="resolved", attempts=attempts, lastResult="200 BankApp callback recorded")
    deliver(task, invocation())
    item = only(error_log)
    assert (item["status"], item["attempts"], item["error"]) == ("open", attempts, "ProcessPaidFailed")
    assert from_now(minutes=minutes - 1) < item["queuedAt"] <= from_now(minutes=minutes)


def test_a_failure_without_redrives_left_is_given_up_and_reported(
    task: Task, dispatched: Put, ledger: Table, error_log: Table, failed: Put, service: Service
) -> None:
    dispatched()
    failed(None, status="resolved", attempts=8, lastResult="200 BankApp callback recorded")
    deliver(task, invocation())
    item = only(error_log)
    assert (item["status"], item["attempts"], item["lastResult"]) == ("given up", 8, CAUSE)
    assert lane_of(item["queue"]) == Lane.GIVEN_UP
    for _, event in reports(service):
        failure = Failure.from_event(event)
        assert (failure.error, failure.message) == ("GivenUp", f"Redriven 8 times, last result: {CAUSE}")
    # An operator can still redrive it.
    assert only(ledger)["failedRequestId"] == "request-1"


@pytest.mark.parametrize(
    ("status", "lane"), [("open", Lane.HEALING), ("open", Lane.OPERATOR), ("given up", Lane.GIVEN_UP)]
)
def test_a_failure_that_is_not_resolved_keeps_its_status(
    task: Task, dispatched: Put, error_log: Table, failed: Put, status: str, lane: Lane
) -> None:
    dispatched()
    failed(lane, status=status, attempts=3)
    assert deliver(task, invocation()) == []
    item = only(error_log)
    assert (item["status"], item["attempts"], lane_of(item["queue"])) == (status, 3, lane)
    assert item["error"] == "ProcessPaidFailed"


# Time and log


def test_a_message_stays_invisible_while_a_function_may_work_on_it() -> None:
    assert FUNCTIONS["ReopenPayment"]["Events"]["Failure"]["Properties"]["BatchSize"] == 1
    visibility = RESOURCES["ProcessPaidFailedQueue"]["Properties"]["VisibilityTimeout"]
    assert visibility >= 6 * FUNCTIONS["ReopenPayment"]["Timeout"]


def test_the_log_names_the_payment_but_nothing_private(task: Task, dispatched: Put, log: Log) -> None:
    dispatched()
    deliver(task, invocation())
    (line,) = log()
    assert (line["orderId"], line["paymentId"], line["invokeRequestId"]) == (
        "482500007436",
        "pay_bankapp_123",
        "request-1",
    )
    assert (line["deliveryId"], line["isReopened"]) == (DELIVERY_ID, True)
    assert "b5f392f7" not in json.dumps(line)
