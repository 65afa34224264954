import json
import re
import traceback
from collections.abc import Callable, Iterator
from decimal import Decimal
from types import ModuleType
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from callbacks.errors import ConfigurationError, OrderNotFound, PaymentMismatch, ServiceUnavailable

ORDERS = {"table": "order-table-dev", "key": "orderId", "user": "userId", "total": "total"}
PAYMENTS = {
    "table": "payment3-card-payment-record-master",
    "key": "paymentId",
    "order": "orderId",
    "amount": "amount",
}
ORDER_ID, PAYMENT_ID = "482500007436", "pay_bankapp_123"
PASSED = "passed"

Task = ModuleType
Put = Callable[..., None]


def event(callback: dict[str, Any], mode: str = "enforce", **changes: Any) -> dict[str, Any]:
    """What the state passes on."""
    return {"callback": {**callback, **changes}, "mode": mode, "orders": ORDERS, "payments": PAYMENTS}


def calls(service: Any) -> list[str]:
    """The operations that were called, in order."""
    return [request.headers["X-Amz-Target"].rpartition(".")[2] for request in service.requests]


def create_table(name: str, key: str) -> Any:
    return boto3.resource("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
        KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
    )


@pytest.fixture
def account() -> Iterator[None]:
    """The two tables that the account has already, empty."""
    with mock_aws():
        create_table(ORDERS["table"], ORDERS["key"])
        create_table(PAYMENTS["table"], PAYMENTS["key"])
        yield


@pytest.fixture
def order(account: None, callback: dict[str, Any]) -> Put:  # noqa: ARG001
    """Put the callback's order into its table; None leaves an attribute out."""

    def put(**changes: Any) -> None:
        item = {"orderId": ORDER_ID, "userId": callback["userId"], "total": Decimal(2339), "status": "NEW", **changes}
        item = {name: value for name, value in item.items() if value is not None}
        boto3.resource("dynamodb").Table(ORDERS["table"]).put_item(Item=item)

    return put


@pytest.fixture
def payment(account: None) -> Put:  # noqa: ARG001
    """Put the callback's payment into its table; None leaves an attribute out."""

    def put(**changes: Any) -> None:
        item = {"paymentId": PAYMENT_ID, "orderId": ORDER_ID, "amount": Decimal(2339), **changes}
        item = {name: value for name, value in item.items() if value is not None}
        boto3.resource("dynamodb").Table(PAYMENTS["table"]).put_item(Item=item)

    return put


@pytest.fixture
def task(load: Callable[..., ModuleType], account: None) -> ModuleType:  # noqa: ARG001
    return load("cross_check_payment")


def mismatch(task: Task, event: dict[str, Any]) -> str:
    """The message with which a callback is refused; it and its trace show nothing of the items or the callback."""
    with pytest.raises(PaymentMismatch) as error:
        task.handler(event, None)
    shown = str(error.value) + "".join(traceback.format_exception(error.value))
    for private in (event["callback"]["userId"], "b5f392f7", "2339", "another user", "order of another", "9999"):
        assert private not in shown
    return str(error.value)


# The order


def test_a_callback_that_agrees_with_its_order_passes_while_its_payment_is_not_recorded(
    task: Task, order: Put, callback: dict[str, Any], log: Callable[[], list[dict[str, Any]]]
) -> None:
    order()
    assert task.handler(event(callback), None) == PASSED
    assert log() == []


@pytest.mark.usefixtures("task")
def test_an_order_that_is_not_there_is_not_found(task: Task, order: Put, callback: dict[str, Any]) -> None:
    order(orderId="another")
    with pytest.raises(OrderNotFound, match=r"^The order does not exist, or not yet$"):
        task.handler(event(callback), None)


def test_an_order_that_comes_a_moment_later_is_found(task: Task, order: Put, callback: dict[str, Any]) -> None:
    with pytest.raises(OrderNotFound):
        task.handler(event(callback), None)
    order()
    assert task.handler(event(callback), None) == PASSED


@pytest.mark.parametrize("user", ["another user", "B5F392F7-6D89-433C-B24F-BF6A772CAB1A", Decimal(5), ["a"]], ids=str)
def test_an_order_of_another_user_or_of_none_is_a_mismatch(
    task: Task, order: Put, callback: dict[str, Any], user: Any
) -> None:
    order(userId=user)
    assert mismatch(task, event(callback)) == "userId: is not the order's"


# What an order or a payment may say, what the callback says, and whether that is the same money.
AMOUNTS: list[tuple[Any, str | None, bool]] = [
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
]


@pytest.mark.parametrize(("known", "amount", "is_same"), AMOUNTS, ids=str)
def test_the_amount_has_to_be_exactly_the_orders_total_in_whatever_spelling(
    task: Task, order: Put, callback: dict[str, Any], known: Any, amount: str | None, is_same: bool
) -> None:
    order(total=known)
    if is_same:
        assert task.handler(event(callback, amount=amount), None) == PASSED
    else:
        assert mismatch(task, event(callback, amount=amount)) == "amount: is not the order's total"


# The payment


def test_a_payment_that_is_recorded_already_passes(
    task: Task, order: Put, payment: Put, callback: dict[str, Any]
) -> None:
    order()
    payment()
    assert task.handler(event(callback), None) == PASSED


@pytest.mark.parametrize("recorded_for", ["order of another", Decimal(482500007436)], ids=str)
def test_a_payment_that_is_recorded_for_another_order_is_a_mismatch(
    task: Task, order: Put, payment: Put, callback: dict[str, Any], recorded_for: Any
) -> None:
    order()
    payment(orderId=recorded_for)
    assert mismatch(task, event(callback)) == "paymentId: is recorded for another order"


@pytest.mark.parametrize(("known", "amount", "is_same"), [case for case in AMOUNTS if case[1] is not None], ids=str)
def test_the_amount_has_to_be_exactly_the_recorded_payments_in_whatever_spelling(
    task: Task, order: Put, payment: Put, callback: dict[str, Any], known: Any, amount: str, is_same: bool
) -> None:
    order(total=amount)
    payment(amount=known)
    if is_same:
        assert task.handler(event(callback, amount=amount), None) == PASSED
    else:
        assert mismatch(task, event(callback, amount=amount)) == "paymentId: is recorded with another amount"


# The names


@pytest.mark.parametrize(
    ("key", "user", "total"),
    [
        ("id", "owner", "price"),
        ("key", "user", "status"),
        ("hash", "name", "value"),
        ("order-id", "user.id", "order.total-amount"),
        ("a[0]", "#0", ":v"),
        ("orderId", "ผู้ใช้", "sum of all"),
    ],
)
def test_tables_keys_and_attributes_have_whatever_names_they_have(
    task: Task, callback: dict[str, Any], key: str, user: str, total: str
) -> None:
    orders = {"table": "Orders.of-all_2026", "key": key, "user": user, "total": total}
    payments = {"table": "payments", "key": key, "order": user, "amount": total}
    order, payment = create_table(orders["table"], key), create_table(payments["table"], key)
    checked = {**event(callback), "orders": orders, "payments": payments}
    with pytest.raises(OrderNotFound):
        task.handler(checked, None)
    order.put_item(Item={key: ORDER_ID, user: callback["userId"], total: Decimal(2339)})
    assert task.handler(checked, None) == PASSED
    payment.put_item(Item={key: PAYMENT_ID, user: ORDER_ID, total: "2339.00"})
    assert task.handler(checked, None) == PASSED
    payment.put_item(Item={key: PAYMENT_ID, user: "order of another", total: "2339.00"})
    assert mismatch(task, checked) == "paymentId: is recorded for another order"


@pytest.mark.parametrize(
    ("of_order", "of_payment", "message"),
    [
        ({"userId": None}, {}, "The order has no attribute userId."),
        ({"total": None}, {}, "The order has no attribute total."),
        ({"userId": None, "total": None}, {}, "The order has no attribute userId."),
        ({}, {"orderId": None}, "The payment has no attribute orderId."),
        ({}, {"amount": None}, "The payment has no attribute amount."),
    ],
)
def test_an_attribute_that_is_not_there_is_misnamed_and_refuses_nobody(
    task: Task,
    order: Put,
    payment: Put,
    callback: dict[str, Any],
    of_order: dict[str, None],
    of_payment: dict[str, None],
    message: str,
) -> None:
    order(**of_order)
    payment(**of_payment)
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}$"):
        task.handler(event(callback), None)


# The modes


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"orderId": "another"}, "OrderNotFound: The order does not exist, or not yet"),
        ({"userId": "another user"}, "PaymentMismatch: userId: is not the order's"),
        ({"amount": None}, "PaymentMismatch: amount: is not the order's total"),
    ],
)
def test_what_does_not_agree_is_noted_in_warn_and_logged_with_ids_alone(
    task: Task,
    order: Put,
    callback: dict[str, Any],
    log: Callable[[], list[dict[str, Any]]],
    changes: dict[str, Any],
    note: str,
) -> None:
    order()
    assert task.handler(event(callback, "warn", **changes), None) == f"failed: {note}"
    (line,) = log()
    ids = {"orderId": changes.get("orderId", ORDER_ID), "paymentId": PAYMENT_ID, "requestId": "8f7e6d5c"}
    assert line.items() >= {"check": "CrossCheckPayment", "error": note.partition(":")[0], **ids}.items()
    assert callback["userId"] not in json.dumps(line)
    assert "2339" not in json.dumps(line)


def test_another_mode_is_a_configuration_error(task: Task, order: Put, callback: dict[str, Any]) -> None:
    order()
    with pytest.raises(ConfigurationError, match="is not a mode of CrossCheckPayment"):
        task.handler(event(callback, "off"), None)


# The tables


def found(callback: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
    item = {"orderId": {"S": ORDER_ID}, "userId": {"S": callback["userId"]}, "total": {"N": "2339"}}
    return 200, json.dumps({"Item": item}).encode(), {}


def test_two_consistent_reads_are_all_and_ask_for_no_more_than_is_compared(
    load: Callable[..., ModuleType], service: Any, callback: dict[str, Any]
) -> None:
    task = load("cross_check_payment", AWS_ENDPOINT_URL=service.url)
    service.first.append(found(callback))
    service.answers(200, b"{}")
    assert task.handler(event(callback), None) == PASSED
    assert calls(service) == ["GetItem", "GetItem"]
    orders, payments = (json.loads(request.body) for request in service.requests)
    assert orders["ConsistentRead"] is payments["ConsistentRead"] is True
    assert (orders["TableName"], orders["Key"]) == (ORDERS["table"], {"orderId": {"S": ORDER_ID}})
    assert (payments["TableName"], payments["Key"]) == (PAYMENTS["table"], {"paymentId": {"S": PAYMENT_ID}})
    assert set(orders["ExpressionAttributeNames"].values()) == {"orderId", "userId", "total"}
    assert set(payments["ExpressionAttributeNames"].values()) == {"paymentId", "orderId", "amount"}


def test_an_order_that_does_not_agree_spares_the_second_read(
    load: Callable[..., ModuleType], service: Any, callback: dict[str, Any]
) -> None:
    task = load("cross_check_payment", AWS_ENDPOINT_URL=service.url)
    service.answers(200, b"{}")
    with pytest.raises(OrderNotFound):
        task.handler(event(callback), None)
    assert calls(service) == ["GetItem"]


@pytest.mark.parametrize("reads_before", [0, 1])
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ProvisionedThroughputExceededException", 400),
        ("ThrottlingException", 400),
        ("RequestLimitExceeded", 400),
        ("InternalServerError", 500),
        ("ServiceUnavailable", 503),
    ],
)
def test_an_error_that_passes_is_service_unavailable_and_left_to_the_state_to_retry(
    load: Callable[..., ModuleType], service: Any, callback: dict[str, Any], code: str, status: int, reads_before: int
) -> None:
    task = load("cross_check_payment", AWS_ENDPOINT_URL=service.url)
    service.first += [found(callback)] * reads_before
    service.refuses(code, status)
    with pytest.raises(ServiceUnavailable):
        task.handler(event(callback), None)
    assert calls(service) == ["GetItem"] * (reads_before + 1)


@pytest.mark.parametrize("code", ["AccessDeniedException", "ValidationException", "ResourceNotFoundException"])
def test_an_error_that_stays_keeps_its_own_name(
    load: Callable[..., ModuleType], service: Any, callback: dict[str, Any], code: str
) -> None:
    task = load("cross_check_payment", AWS_ENDPOINT_URL=service.url)
    service.refuses(code, 400)
    with pytest.raises(ClientError, match=code):
        task.handler(event(callback), None)
    # botocore has a class of its own for some of them.
    note = code if code == "ResourceNotFoundException" else "ClientError"
    assert task.handler(event(callback, "warn"), None) == f"failed: {note}"


@pytest.mark.parametrize("reads_before", [0, 1])
@pytest.mark.parametrize("mode", ["warn", "enforce"])
def test_a_table_that_does_not_answer_is_given_up_within_the_steps_time(
    load: Callable[..., ModuleType], service: Any, callback: dict[str, Any], within: Any, mode: str, reads_before: int
) -> None:
    task = load("cross_check_payment", AWS_ENDPOINT_URL=service.url)
    service.first += [found(callback)] * reads_before

    def hang(**_: object) -> None:
        if len(service.requests) == reads_before:
            service.hangs()

    task.items.dynamodb.meta.events.register_first("before-send.dynamodb.GetItem", hang)
    with within(1.5):
        if mode == "warn":
            assert task.handler(event(callback, mode), None) == "failed: ServiceUnavailable"
        else:
            with pytest.raises(ServiceUnavailable):
                task.handler(event(callback, mode), None)
    assert len(service.requests) == reads_before + 1


def test_a_table_that_cannot_be_reached_is_given_up_within_the_steps_time(
    load: Callable[..., ModuleType], deaf: str, callback: dict[str, Any], within: Any
) -> None:
    task = load("cross_check_payment", AWS_ENDPOINT_URL=deaf)
    with within(1.5), pytest.raises(ServiceUnavailable):
        task.handler(event(callback), None)
