import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from boto3.dynamodb.conditions import Key

from tests.outcomes import body_of
from tests.sources import table
from tests.unit.kit import PAID, Client, Json, Load, Log, Service, Table, Task, context, only

CHANNEL = "BankApp"
TEMPLATE_TABLE = table("WalletCallbackRecordTable")
TABLE = TEMPLATE_TABLE["TableName"]
Typed = Callable[[], list[Json]]
EXECUTION = "arn:aws:states:ap-southeast-1:123456789012:express:payment3-bankapp-callback-test:8f7e6d5c:1"


@pytest.fixture
def task(load: Load) -> Task:
    return load("save_callback_record")


def event(callback: Json, delivery: Json = PAID, **changes: Any) -> Json:
    """The input of the state."""
    return {
        "channel": CHANNEL,
        "table": TABLE,
        "executionArn": EXECUTION,
        "delivery": delivery,
        "callback": {**callback, **changes},
        "signature": "passed",
    }


def delivered(**fields: Any) -> Json:
    """A delivery of a paid callback with other fields; None leaves one out."""
    document = {**json.loads(body_of("paid")), **fields}
    return {"body": json.dumps({name: value for name, value in document.items() if value is not None})}


def undispatched(records: Table) -> list[str]:
    """The deliveries in the index of those whose dispatch is not confirmed."""
    found = records.query(IndexName="undispatched", KeyConditionExpression=Key("shard").eq(f"{CHANNEL}#3"))
    return [item["deliveryId"] for item in found["Items"]]


@pytest.fixture
def typed(dynamodb: Client, tables: dict[str, str]) -> Typed:
    """The recorded items with DynamoDB's types."""

    def scan() -> list[Json]:
        found: list[Json] = dynamodb.scan(TableName=tables["WalletCallbackRecordTable"])["Items"]
        return found

    return scan


def test_every_field_of_a_delivery_is_on_its_item(task: Task, typed: Typed, callback: Json) -> None:
    assert task.handler(event(callback), context()) == {
        "deliveryId": callback["deliveryId"],
        "isNew": True,
        "payment": "new",
    }
    assert typed() == [
        {
            "orderId": {"S": "482500007436"},
            "deliveryId": {"S": "2026-11-22T10:00:00.000Z#8f7e6d5c"},
            "paymentId": {"S": "pay_bankapp_123"},
            "userId": {"S": callback["userId"]},
            "success": {"BOOL": True},
            "amount": {"N": "2339.0"},
            "message": {"S": "Payment successful"},
            "extra": {"S": "{}"},
            "body": {"S": PAID["body"]},
            "channel": {"S": CHANNEL},
            "shard": {"S": f"{CHANNEL}#3"},
            "requestId": {"S": "8f7e6d5c"},
            "receivedAt": {"S": "2026-11-22T10:00:00.000Z"},
            "sourceIp": {"S": "203.0.113.7"},
            "executionArn": {"S": EXECUTION},
            "signatureHeaders": {"S": '{"webhook-id": "msg_1", "webhook-signature": "v1,c2lnbmVk"}'},
            "signature": {"S": "passed"},
            "undispatchedSince": {"S": "2026-11-22T10:00:00.000Z"},
        }
    ]


@pytest.mark.parametrize(
    "amount", ["0", "1.50", "90071992547409.93", "1E+2", "12345678901234567890123456789012345678", "1E-30", "9.9E+37"]
)
def test_an_amount_is_stored_exactly(task: Task, typed: Typed, callback: Json, amount: str) -> None:
    body = body_of("paid").replace("2339.0", amount)
    task.handler(event(callback, {"body": body}), context())
    (item,) = typed()
    assert list(item["amount"]) == ["N"]
    assert Decimal(item["amount"]["N"]) == Decimal(amount)


def test_what_a_delivery_omits_is_not_on_its_item(task: Task, typed: Typed, callback: Json) -> None:
    optional = ("amount", "message", "sourceIp", "signatureHeaders")
    task.handler(event(callback, delivered(amount=None, message=None)), context())
    (item,) = typed()
    assert not item.keys() & optional


@pytest.mark.parametrize(
    "verdict", ["skipped", "passed", "failed: InvalidSignature: webhook-id: is missing", "failed: ServiceUnavailable"]
)
def test_the_verdict_on_the_signature_is_on_the_item(task: Task, typed: Typed, callback: Json, verdict: str) -> None:
    task.handler({**event(callback), "signature": verdict}, context())
    (item,) = typed()
    assert item["signature"] == {"S": verdict}


def test_a_declined_payment_and_its_empty_message_are_stored(task: Task, typed: Typed, callback: Json) -> None:
    task.handler(event(callback, delivered(success=False, message="")), context())
    (item,) = typed()
    assert (item["success"], item["message"]) == ({"BOOL": False}, {"S": ""})


def test_a_paid_delivery_waits_for_its_dispatch_a_declined_one_does_not(
    task: Task, records: Table, callback: Json
) -> None:
    task.handler(event(callback, delivered(success=False), deliveryId="declined"), context())
    assert undispatched(records) == []
    task.handler(event(callback, deliveryId="paid"), context())
    assert undispatched(records) == ["paid"]


def test_a_retry_of_a_dispatched_delivery_does_not_make_it_wait_again(
    task: Task, records: Table, callback: Json
) -> None:
    task.handler(event(callback), context())
    item = only(records)
    del item["undispatchedSince"]
    records.put_item(Item=item)
    assert not task.handler(event(callback), context())["isNew"]
    assert undispatched(records) == []


def test_any_text_is_stored_unchanged(task: Task, typed: Typed, callback: Json) -> None:
    text = 'O\'Brien "ชำระ" 🎉 \\ / \x00\r\n'
    received = delivered(message=text, a=text)
    task.handler(event(callback, received), context())
    (item,) = typed()
    assert (item["message"]["S"], json.loads(item["extra"]["S"])["a"]) == (text, text)
    assert item["body"]["S"] == received["body"]


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("only-required-fields", {}),
        ("unknown-fields", {"currency": "THB", "fee": "0.10", "bank": {"code": "004", "branches": [1, 2]}}),
    ],
)
def test_unknown_fields_are_stored_as_text(task: Task, typed: Typed, callback: Json, name: str, extra: Json) -> None:
    task.handler(event(callback, {"body": body_of(name)}), context())
    (item,) = typed()
    assert json.loads(item["extra"]["S"]) == extra


def test_a_retry_of_a_delivery_adds_no_item_and_reports_it(task: Task, typed: Typed, callback: Json) -> None:
    task.handler(event(callback), context())
    (first,) = typed()
    retry = {**event(callback), "executionArn": "another"}
    assert task.handler(retry, context()) == {"deliveryId": callback["deliveryId"], "isNew": False, "payment": "new"}
    assert typed() == [first]


def test_deliveries_of_one_order_are_read_by_one_query_in_order_of_arrival(
    task: Task, records: Table, callback: Json
) -> None:
    arrivals = ["2026-11-22T10:00:00.010Z#a", "2026-11-22T10:00:00.009Z#b", "2026-11-23T09:00:00.000Z#0"]
    for arrival in arrivals:
        assert task.handler(event(callback, deliveryId=arrival), context())["isNew"]
    task.handler(event(callback, delivered(orderId="another order")), context())
    condition = Key("orderId").eq(callback["orderId"])
    found = records.query(KeyConditionExpression=condition)["Items"]
    assert [item["deliveryId"] for item in found] == sorted(arrivals)


def test_each_channel_has_its_own_table(task: Task, typed: Typed, dynamodb: Client, callback: Json) -> None:
    dynamodb.create_table(**TEMPLATE_TABLE | {"TableName": "another-channel"})
    task.handler(event(callback), context())
    task.handler({**event(callback), "channel": "Another", "table": "another-channel"}, context())
    assert [item["channel"]["S"] for item in typed()] == [CHANNEL]
    assert [item["channel"]["S"] for item in dynamodb.scan(TableName="another-channel")["Items"]] == ["Another"]


@pytest.mark.parametrize(("code", "status"), [("ThrottlingException", 400), ("InternalServerError", 500)])
def test_a_single_error_of_dynamodb_goes_unnoticed(
    load: Load, service: Service, callback: Json, pauses: list[float], code: str, status: int
) -> None:
    task = load("save_callback_record", AWS_ENDPOINT_URL=service.url)
    service.refuses_once(code, status)
    service.answers(200, b"{}")
    assert task.handler(event(callback), context())["isNew"]
    # The put, its retry, and the look at the ledger.
    assert len(service.requests) == 3
    assert len(pauses) == 1


def test_a_record_written_despite_an_error_is_found_by_the_retry(
    load: Load, service: Service, callback: Json, pauses: list[float]
) -> None:
    task = load("save_callback_record", AWS_ENDPOINT_URL=service.url)
    service.refuses_once("InternalServerError", 500)
    service.refuses_once("ConditionalCheckFailedException", 400)
    service.answers(200, b"{}")
    assert task.handler(event(callback), context()) == {
        "deliveryId": callback["deliveryId"],
        "isNew": False,
        "payment": "new",
    }
    assert len(pauses) == 1


@pytest.mark.usefixtures("tables")
def test_the_log_names_the_delivery_but_not_the_user(task: Task, callback: Json, log: Log) -> None:
    task.handler(event(callback), context())
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


def test_an_operators_decision_is_not_part_of_the_record(task: Task, records: Table, callback: Json) -> None:
    task.handler(event(callback, decision={"id": "decision-1", "action": "again"}), context())
    assert "decision" not in str(only(records))
