import json
from decimal import Decimal
from typing import Any

import boto3
import pytest
from boto3.dynamodb.conditions import Key

from tests.sources import table as table_of
from tests.unit.kit import Json, Load, Log, Service, Task

CHANNEL = "BankApp"
TEMPLATE_TABLE = table_of("WalletCallbackRecordTable")
EXECUTION = "arn:aws:states:ap-southeast-1:123456789012:express:payment3-bankapp-callback-test:8f7e6d5c:1"


@pytest.fixture
def task(load: Load) -> Task:
    return load("save_callback_record")


def event(table: str, callback: Json, **changes: Any) -> Json:
    """What the state passes on."""
    return {
        "channel": CHANNEL,
        "table": table,
        "executionArn": EXECUTION,
        "callback": {**callback, **changes},
        "signature": "passed",
    }


def undispatched(table: str) -> list[str]:
    """The paid deliveries whose dispatch is not confirmed, by their index."""
    found = (
        boto3.resource("dynamodb")
        .Table(table)
        .query(IndexName="undispatched", KeyConditionExpression=Key("channel").eq(CHANNEL))
    )
    return [item["deliveryId"] for item in found["Items"]]


def items(table: str) -> list[Json]:
    """The items as DynamoDB holds them, types and all."""
    return boto3.client("dynamodb").scan(TableName=table)["Items"]


def test_every_field_of_a_delivery_is_on_its_item(task: Task, tables: dict[str, str], callback: Json) -> None:
    table = tables["WalletCallbackRecordTable"]
    assert task.handler(event(table, callback), None) == {"deliveryId": callback["deliveryId"], "isNew": True}
    assert items(table) == [
        {
            "orderId": {"S": "482500007436"},
            "deliveryId": {"S": "2026-11-22T10:00:00.000Z#8f7e6d5c"},
            "paymentId": {"S": "pay_bankapp_123"},
            "userId": {"S": callback["userId"]},
            "success": {"BOOL": True},
            "amount": {"N": "2339.0"},
            "message": {"S": "Payment successful"},
            "extra": {"S": "{}"},
            "body": {"S": callback["body"]},
            "channel": {"S": CHANNEL},
            "requestId": {"S": "8f7e6d5c"},
            "receivedAt": {"S": "2026-11-22T10:00:00.000Z"},
            "sourceIp": {"S": "203.0.113.7"},
            "executionArn": {"S": EXECUTION},
            "signatureHeaders": {"S": callback["signatureHeaders"]},
            "signature": {"S": "passed"},
            "undispatchedSince": {"S": "2026-11-22T10:00:00.000Z"},
        }
    ]


@pytest.mark.parametrize(
    "amount", ["0", "1.50", "90071992547409.93", "1E+2", "12345678901234567890123456789012345678", "1E-130", "9.9E+125"]
)
def test_an_amount_is_stored_exactly(task: Task, tables: dict[str, str], callback: Json, amount: str) -> None:
    table = tables["WalletCallbackRecordTable"]
    task.handler(event(table, callback, amount=amount), None)
    (item,) = items(table)
    assert list(item["amount"]) == ["N"]
    assert Decimal(item["amount"]["N"]) == Decimal(amount)


def test_a_field_that_a_callback_omits_is_not_on_its_item(task: Task, tables: dict[str, str], callback: Json) -> None:
    table = tables["WalletCallbackRecordTable"]
    optional = ("amount", "message", "sourceIp", "signatureHeaders")
    task.handler(event(table, callback, **dict.fromkeys(optional)), None)
    (item,) = items(table)
    assert not item.keys() & optional


@pytest.mark.parametrize("note", ["off", "passed", "InvalidSignature: webhook-id: is missing", "ServiceUnavailable"])
def test_the_verdict_on_the_signature_is_on_the_item(
    task: Task, tables: dict[str, str], callback: Json, note: str
) -> None:
    table = tables["WalletCallbackRecordTable"]
    task.handler({**event(table, callback), "signature": note}, None)
    (item,) = items(table)
    assert item["signature"] == {"S": note}


def test_a_declined_payment_and_its_empty_message_are_stored(
    task: Task, tables: dict[str, str], callback: Json
) -> None:
    table = tables["WalletCallbackRecordTable"]
    task.handler(event(table, callback, success=False, message=""), None)
    (item,) = items(table)
    assert (item["success"], item["message"]) == ({"BOOL": False}, {"S": ""})


def test_a_paid_delivery_waits_for_its_dispatch_a_declined_one_does_not(
    task: Task, tables: dict[str, str], callback: Json
) -> None:
    table = tables["WalletCallbackRecordTable"]
    task.handler(event(table, callback, success=False, deliveryId="declined"), None)
    assert undispatched(table) == []
    task.handler(event(table, callback, deliveryId="paid"), None)
    assert undispatched(table) == ["paid"]


def test_a_retry_of_a_dispatched_delivery_does_not_make_it_wait_again(
    task: Task, tables: dict[str, str], callback: Json
) -> None:
    table = tables["WalletCallbackRecordTable"]
    task.handler(event(table, callback), None)
    (item,) = items(table)
    del item["undispatchedSince"]
    boto3.client("dynamodb").put_item(TableName=table, Item=item)
    assert not task.handler(event(table, callback), None)["isNew"]
    assert undispatched(table) == []


def test_any_text_is_stored_unchanged(task: Task, tables: dict[str, str], callback: Json) -> None:
    table = tables["WalletCallbackRecordTable"]
    text = 'O\'Brien "ชำระ" 🎉 \\ / \x00\r\n'
    task.handler(event(table, callback, message=text, extra=json.dumps({"a": text}), body=text), None)
    (item,) = items(table)
    assert (item["message"]["S"], json.loads(item["extra"]["S"])["a"], item["body"]["S"]) == (text, text, text)


def test_a_retry_of_a_delivery_adds_no_item_and_reports_it(task: Task, tables: dict[str, str], callback: Json) -> None:
    table = tables["WalletCallbackRecordTable"]
    task.handler(event(table, callback), None)
    (first,) = items(table)
    retry = {**event(table, callback), "executionArn": "another"}
    assert task.handler(retry, None) == {"deliveryId": callback["deliveryId"], "isNew": False}
    assert items(table) == [first]


def test_deliveries_of_one_order_are_read_by_one_query_in_order_of_arrival(
    task: Task, tables: dict[str, str], callback: Json
) -> None:
    table = tables["WalletCallbackRecordTable"]
    arrivals = ["2026-11-22T10:00:00.010Z#a", "2026-11-22T10:00:00.009Z#b", "2026-11-23T09:00:00.000Z#0"]
    for arrival in arrivals:
        assert task.handler(event(table, callback, deliveryId=arrival), None)["isNew"]
    task.handler(event(table, callback, orderId="another order"), None)
    condition = Key("orderId").eq(callback["orderId"])
    found = boto3.resource("dynamodb").Table(table).query(KeyConditionExpression=condition)["Items"]
    assert [item["deliveryId"] for item in found] == sorted(arrivals)


def test_each_channel_has_its_own_table(task: Task, tables: dict[str, str], callback: Json) -> None:
    table = tables["WalletCallbackRecordTable"]
    boto3.client("dynamodb").create_table(**TEMPLATE_TABLE | {"TableName": "another-channel"})
    task.handler(event(table, callback), None)
    task.handler({**event("another-channel", callback), "channel": "Another"}, None)
    assert [item["channel"]["S"] for item in items(table)] == [CHANNEL]
    assert [item["channel"]["S"] for item in items("another-channel")] == ["Another"]


@pytest.mark.parametrize(("code", "status"), [("ThrottlingException", 400), ("InternalServerError", 500)])
def test_a_single_error_of_dynamodb_goes_unnoticed(
    load: Load, service: Service, callback: Json, pauses: list[float], code: str, status: int
) -> None:
    task = load("save_callback_record", AWS_ENDPOINT_URL=service.url)
    service.refuses_once(code, status)
    service.answers(200, b"{}")
    assert task.handler(event("table", callback), None)["isNew"]
    assert len(service.requests) == 2
    assert len(pauses) == 1


def test_a_record_written_despite_an_error_is_found_by_the_retry(
    load: Load, service: Service, callback: Json, pauses: list[float]
) -> None:
    task = load("save_callback_record", AWS_ENDPOINT_URL=service.url)
    service.refuses_once("InternalServerError", 500)
    service.refuses("ConditionalCheckFailedException", 400)
    assert task.handler(event("table", callback), None) == {"deliveryId": callback["deliveryId"], "isNew": False}
    assert len(pauses) == 1


def test_the_log_names_the_delivery_but_not_the_user(
    task: Task, tables: dict[str, str], callback: Json, log: Log
) -> None:
    task.handler(event(tables["WalletCallbackRecordTable"], callback), None)
    (line,) = log()
    assert (
        line.items()
        >= {
            "message": "Callback recorded",
            "orderId": "482500007436",
            "paymentId": "pay_bankapp_123",
            "deliveryId": callback["deliveryId"],
            "isNew": True,
        }.items()
    )
    assert callback["userId"] not in json.dumps(line)
