"""A payment for which process-paid failed for good becomes a failure, is reported, and can be dispatched again."""

import json
from typing import Any

import pytest

from callbacks.tables import CallbackError, Payment, bind
from tests.sources import TEMPLATE, table
from tests.unit.kit import BeforeCall, Json, Load, Log, Put, Service, Table, TableOf, Task, items, only

DELIVERY_ID = "2026-11-22T10:00:00.000Z#8f7e6d5c"
KEY = {"orderKey": "BankApp#482500007436", "paymentId": "pay_bankapp_123"}
ENVIRONMENT = {
    "CHANNEL": "BankApp",
    "FUNCTION_NAME": "bankappcallback",
    "RECORD_TABLE": table("WalletCallbackRecordTable")["TableName"],
    "SENTRY_FUNCTION": "payment3-ReportToSentry-test",
    "EMAIL_FUNCTION": "payment3-SendErrorEmail-test",
}
CAUSE = "Lambda gave up: RetriesExhausted; invocations of process-paid: 3; error: KeyError"


@pytest.fixture
def task(load: Load, tables: dict[str, str], service: Service) -> Task:  # noqa: ARG001
    """The task with moto's DynamoDB and a Lambda that accepts every event."""
    service.answers(202)
    return load("reopen_payment", AWS_ENDPOINT_URL_LAMBDA=service.url, **ENVIRONMENT)


@pytest.fixture
def ledger(table_of: TableOf) -> Table:
    return table_of("PaymentLedgerTable")


@pytest.fixture
def dispatched(ledger: Table, records: Table, callback: Json) -> Put:
    """Record a delivery, and put its payment into the ledger as dispatched by request-1; None leaves one out."""

    def put(**changes: Any) -> Json:
        known = ("orderId", "paymentId", "userId", "success", "extra", "body", "requestId", "receivedAt", "deliveryId")
        record = {name: callback[name] for name in (*known, "sourceIp", "signatureHeaders")}
        records.put_item(Item={**record, "channel": "BankApp", "executionArn": "arn", "signature": "passed"})
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


def invocation(callback: Json, request_id: str = "request-1", **changes: Any) -> Json:
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
        "requestPayload": json.loads(callback["body"]),
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
    task: Task, callback: Json, dispatched: Put, error_log: Table
) -> None:
    dispatched()
    assert deliver(task, invocation(callback)) == []
    item = only(error_log)
    assert json.loads(item.pop("event")) == {
        "body": callback["body"],
        "requestId": "8f7e6d5c",
        "receivedAt": 1795341600000,
        "sourceIp": "203.0.113.7",
        "headers": json.loads(callback["signatureHeaders"]),
    }
    assert item.pop("nextAttemptAt") > item.pop("occurredAt") > "2026-11-22"
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
    }


def test_a_failed_dispatch_is_taken_back_in_the_ledger(
    task: Task, callback: Json, dispatched: Put, ledger: Table
) -> None:
    dispatched()
    deliver(task, invocation(callback))
    assert only(ledger) == {
        **KEY,
        "userDigest": "u",
        "amountDigest": "a",
        "dispatches": 0,
        "failedRequestId": "request-1",
    }
