import json
import re
import traceback
from collections.abc import Callable
from decimal import Decimal
from importlib import import_module
from typing import Any

import pytest
from botocore.exceptions import ClientError

from callbacks.errors import ConfigurationError, OrderNotFound, PaymentMismatch, PaymentNotFound, ServiceUnavailable
from tests.unit.kit import Client, Json, Load, Log, Service, Task, Within, operations

ORDERS = {"table": "order-table-dev", "key": "orderId", "user": "userId", "total": "total"}
PAYMENTS = {
    "table": "payment3-card-payment-record-master",
    "key": "paymentId",
    "order": "orderId",
    "amount": "amount",
    "required": "false",
}
ORDER_ID, PAYMENT_ID = "482500007436", "pay_bankapp_123"
PASSED = "passed"


def event(callback: Json, mode: str = "enforce", **changes: str | None) -> Json:
    """Return what the state passes to the task."""
    return {"callback": {**callback, **changes}, "mode": mode, "orders": ORDERS, "payments": PAYMENTS}


def mismatch(task: Task, event: Json) -> str:
    """Return the message that refuses a callback; neither it nor its trace shows the items or the callback."""
    with pytest.raises(PaymentMismatch) as error:
        task.handler(event, None)
    shown = str(error.value) + "".join(traceback.format_exception(error.value))
    for private in (event["callback"]["userId"], "b5f392f7", "2339", "another user", "a foreign order", "9999"):
        assert private not in shown
    return str(error.value)


# Amounts


@pytest.mark.parametrize(
    ("known", "amount", "is_same"),
    [
        (Decimal(2339), "2339.0", True),
        (Decimal("1.50"), "1.5", True),
        (Decimal("1.5"), "1.50", True),
        ("1.50", "1.5", True),
        ("1.5", "15e-1", True),
        ("100", "1E+2", True),
        (Decimal(0), "0.00", True),
        (Decimal("90071992547409.93"), "90071992547409.93", True),
        (Decimal("90071992547409.93"), "90071992547409.92", False),
        ("12345678901234567890123456789012345678.1", "12345678901234567890123456789012345678", False),
        (Decimal("0.3"), "0.30000000000000004", False),
        (Decimal(9999), "2339.0", False),
        ("9999", "2339.0", False),
        (Decimal(-2339), "2339.0", False),
        (Decimal(233900), "2339.00", False),
        (Decimal(2339), None, False),
        (True, "1", False),
        (False, "0", False),
        (None, "0", False),
        ([Decimal(2339)], "2339", False),
        ([Decimal(0), [Decimal(1)], Decimal(0)], "1", False),
        ({"value": Decimal(2339)}, "2339", False),
        ({Decimal(2339)}, "2339", False),
        (b"2339", "2339", False),
        ("", "0", False),
        ("2,339", "2339", False),
        ("2339 THB", "2339", False),
        ("NaN", "2339", False),
        ("sNaN", "2339", False),
        ("Infinity", "2339", False),
    ],
    ids=str,
)
def test_a_stored_amount_is_the_callbacks_if_it_is_exactly_equal(known: Any, amount: str | None, is_same: bool) -> None:
    assert import_module("cross_check_payment")._is_same_amount(known, amount) is is_same


# The items


def create_table(dynamodb: Client, name: str, key: str) -> None:
    dynamodb.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
        KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
    )


type PutItem = Callable[[str, Json], None]
# Put the callback's order or payment, with these attributes changed; None leaves one out.
type PutChanged = Callable[..., None]


@pytest.fixture
def put(clients: tuple[Client, Any]) -> PutItem:
    """Put an item into a table; None leaves an attribute out."""

    def put(table: str, item: Json) -> None:
        clients[1].Table(table).put_item(Item={name: value for name, value in item.items() if value is not None})

    return put


@pytest.fixture
def task(load: Load, dynamodb: Client) -> Task:
    """The task, and its two tables, empty."""
    create_table(dynamodb, ORDERS["table"], ORDERS["key"])
    create_table(dynamodb, PAYMENTS["table"], PAYMENTS["key"])
    return load("cross_check_payment")


@pytest.fixture
def order(callback: Json, put: PutItem) -> PutChanged:
    item = {"orderId": ORDER_ID, "userId": callback["userId"], "total": Decimal(2339), "status": "NEW"}
    return lambda **changes: put(ORDERS["table"], {**item, **changes})


@pytest.fixture
def payment(put: PutItem) -> PutChanged:
    item = {"paymentId": PAYMENT_ID, "orderId": ORDER_ID, "amount": Decimal(2339)}
    return lambda **changes: put(PAYMENTS["table"], {**item, **changes})


def test_a_callback_that_agrees_with_its_order_and_payment_passes(
    task: Task, order: PutChanged, payment: PutChanged, callback: Json, log: Log
) -> None:
    order()
    assert task.handler(event(callback), None) == PASSED
    payment(amount="2339.00")
    assert task.handler(event(callback), None) == PASSED
    assert log() == []


def test_an_order_that_arrives_a_moment_later_is_found(task: Task, order: PutChanged, callback: Json) -> None:
    order(orderId="another")
    with pytest.raises(OrderNotFound, match=r"^The order does not exist, or not yet$"):
        task.handler(event(callback), None)
    order()
    assert task.handler(event(callback), None) == PASSED


def test_a_payment_that_is_required_must_be_on_record(
    task: Task, order: PutChanged, payment: PutChanged, callback: Json
) -> None:
    order()
    checked = event(callback) | {"payments": PAYMENTS | {"required": "true"}}
    with pytest.raises(PaymentNotFound, match=r"^The payment is not in the master payment table, or not yet$"):
        task.handler(checked, None)
    payment(orderId="a foreign order")
    assert mismatch(task, checked) == "paymentId: is recorded for another order"
    payment()
    assert task.handler(checked, None) == PASSED


@pytest.mark.parametrize("user", ["another user", "B5F392F7-6D89-433C-B24F-BF6A772CAB1A", Decimal(5), ["a"]], ids=str)
def test_an_order_of_another_user_is_a_mismatch(task: Task, order: PutChanged, callback: Json, user: Any) -> None:
    order(userId=user)
    assert mismatch(task, event(callback)) == "userId: is not the order's"


@pytest.mark.parametrize("total", [Decimal(9999), "9999", True, {Decimal(2339)}, b"2339"], ids=str)
def test_an_order_with_another_total_is_a_mismatch(task: Task, order: PutChanged, callback: Json, total: Any) -> None:
    order(total=total)
    assert mismatch(task, event(callback)) == "amount: is not the order's total"


@pytest.mark.parametrize("recorded_for", ["a foreign order", Decimal(ORDER_ID)], ids=str)
def test_a_payment_recorded_for_another_order_is_a_mismatch(
    task: Task, order: PutChanged, payment: PutChanged, callback: Json, recorded_for: Any
) -> None:
    order()
    payment(orderId=recorded_for)
    assert mismatch(task, event(callback)) == "paymentId: is recorded for another order"


@pytest.mark.parametrize("amount", [Decimal(9999), "9999", True], ids=str)
def test_a_payment_recorded_with_another_amount_is_a_mismatch(
    task: Task, order: PutChanged, payment: PutChanged, callback: Json, amount: Any
) -> None:
    order()
    payment(amount=amount)
    assert mismatch(task, event(callback)) == "paymentId: is recorded with another amount"


# Settings


@pytest.mark.parametrize(
    ("key", "user", "total"),
    [
        ("id", "owner", "price"),
        ("key", "user", "status"),
        ("order-id", "user.id", "order.total-amount"),
        ("a[0]", "#0", ":v"),
        ("orderId", "ผู้ใช้", "sum of all"),
    ],
)
def test_tables_keys_and_attributes_may_have_any_names(
    task: Task, dynamodb: Client, put: PutItem, callback: Json, key: str, user: str, total: str
) -> None:
    orders = {"table": "Orders.of-all_2026", "key": key, "user": user, "total": total}
    payments = {**PAYMENTS, "table": "payments", "key": key, "order": user, "amount": total}
    create_table(dynamodb, orders["table"], key)
    create_table(dynamodb, payments["table"], key)
    checked = {**event(callback), "orders": orders, "payments": payments}
    with pytest.raises(OrderNotFound):
        task.handler(checked, None)
    put(orders["table"], {key: ORDER_ID, user: callback["userId"], total: Decimal(2339)})
    assert task.handler(checked, None) == PASSED
    put(payments["table"], {key: PAYMENT_ID, user: ORDER_ID, total: "2339.00"})
    assert task.handler(checked, None) == PASSED
    put(payments["table"], {key: PAYMENT_ID, user: "a foreign order", total: "2339.00"})
    assert mismatch(task, checked) == "paymentId: is recorded for another order"


@pytest.mark.parametrize(
    ("order_changes", "payment_changes", "message"),
    [
        ({"userId": None}, {}, "The order has no attribute userId."),
        ({"total": None}, {}, "The order has no attribute total."),
        ({"userId": None, "total": None}, {}, "The order has no attribute userId."),
        ({}, {"orderId": None}, "The payment has no attribute orderId."),
        ({}, {"amount": None}, "The payment has no attribute amount."),
    ],
)
def test_a_missing_attribute_is_a_configuration_error(
    task: Task,
    order: PutChanged,
    payment: PutChanged,
    callback: Json,
    order_changes: Json,
    payment_changes: Json,
    message: str,
) -> None:
    order(**order_changes)
    payment(**payment_changes)
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}$"):
        task.handler(event(callback), None)


# Warn


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"orderId": "another"}, "OrderNotFound: The order does not exist, or not yet"),
        ({"userId": "another user"}, "PaymentMismatch: userId: is not the order's"),
    ],
)
def test_in_warn_a_failure_is_a_verdict_and_logs_ids_alone(
    task: Task, order: PutChanged, callback: Json, log: Log, changes: Json, problem: str
) -> None:
    order()
    assert task.handler(event(callback, "warn", **changes), None) == f"failed: {problem}"
    (line,) = log()
    ids = {"orderId": changes.get("orderId", ORDER_ID), "paymentId": PAYMENT_ID, "requestId": "8f7e6d5c"}
    assert line.items() >= {"check": "CrossCheckPayment", "error": problem.partition(":")[0], **ids}.items()
    assert callback["userId"] not in json.dumps(line)
    assert "2339" not in json.dumps(line)


# The calls


@pytest.fixture
def remote(load: Load, service: Service, callback: Json) -> Task:
    """The task on a DynamoDB that finds the callback's order, and nothing from then on."""
    item = {"orderId": {"S": ORDER_ID}, "userId": {"S": callback["userId"]}, "total": {"N": "2339"}}
    service.answers_once(200, json.dumps({"Item": item}).encode())
    service.answers(200, b"{}")
    return load("cross_check_payment", AWS_ENDPOINT_URL=service.url)


def test_two_consistent_reads_return_no_more_than_is_compared(remote: Task, service: Service, callback: Json) -> None:
    assert remote.handler(event(callback), None) == PASSED
    assert operations(service) == ["GetItem", "GetItem"]
    orders, payments = (json.loads(request.body) for request in service.requests)
    assert orders["ConsistentRead"] is payments["ConsistentRead"] is True
    assert (orders["TableName"], orders["Key"]) == (ORDERS["table"], {"orderId": {"S": ORDER_ID}})
    assert (payments["TableName"], payments["Key"]) == (PAYMENTS["table"], {"paymentId": {"S": PAYMENT_ID}})
    assert set(orders["ExpressionAttributeNames"].values()) == {"orderId", "userId", "total"}
    assert set(payments["ExpressionAttributeNames"].values()) == {"paymentId", "orderId", "amount"}


@pytest.mark.parametrize("changes", [{"userId": "another user"}, {"amount": "1"}, {"orderId": "another"}], ids=str)
def test_what_is_refused_takes_as_many_calls_as_what_passes(
    remote: Task, service: Service, callback: Json, changes: dict[str, str]
) -> None:
    if "orderId" in changes:
        service.first.clear()
    with pytest.raises((OrderNotFound, PaymentMismatch)):
        remote.handler(event(callback, **changes), None)
    assert operations(service) == ["GetItem", "GetItem"]


@pytest.mark.parametrize("reads_before", [0, 1])
def test_a_throttled_read_is_service_unavailable_and_not_retried(
    remote: Task, service: Service, callback: Json, reads_before: int
) -> None:
    service.first = service.first[:reads_before]
    service.refuses("ProvisionedThroughputExceededException", 400)
    with pytest.raises(ServiceUnavailable):
        remote.handler(event(callback), None)
    assert operations(service) == ["GetItem"] * (reads_before + 1)


def test_an_error_that_stays_keeps_its_name(remote: Task, service: Service, callback: Json) -> None:
    service.first.clear()
    service.refuses("AccessDeniedException", 400)
    with pytest.raises(ClientError, match="AccessDeniedException"):
        remote.handler(event(callback), None)


def test_a_table_that_does_not_answer_is_abandoned_in_time(
    remote: Task, service: Service, callback: Json, within: Within
) -> None:
    def hang(**_: object) -> None:
        if len(service.requests) == 1:
            service.hangs()

    remote.items.dynamodb.meta.events.register_first("before-send.dynamodb.GetItem", hang)
    with within(1.5), pytest.raises(ServiceUnavailable):
        remote.handler(event(callback), None)
    assert len(service.requests) == 2


def test_a_table_that_does_not_accept_a_connection_is_abandoned_in_time(
    load: Load, deaf: str, callback: Json, within: Within
) -> None:
    task = load("cross_check_payment", AWS_ENDPOINT_URL=deaf)
    with within(1.5), pytest.raises(ServiceUnavailable):
        task.handler(event(callback), None)
