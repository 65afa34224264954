"""CrossCheckPayment: compares the callback with what we know ourselves of the order and of the payment."""

from decimal import Decimal, InvalidOperation
from typing import Any

import boto3
from boto3.dynamodb.types import TypeDeserializer
from botocore.config import Config

from callbacks import checks
from callbacks.errors import ConfigurationError, OrderNotFound, PaymentMismatch
from callbacks.transient import transient_errors_named

# Both reads fit into the step's timeout, but not with a pause and another attempt: that is the state's Retry.
dynamodb = boto3.client(
    "dynamodb",
    config=Config(connect_timeout=0.4, read_timeout=0.5, retries={"total_max_attempts": 1}),
)
read_value = TypeDeserializer().deserialize


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Check that the order is there, belongs to the user and has this total, and that the payment is not another's.

    Takes `callback` (what ValidateCallback returned), `mode`, `orders` (`table`, and its attributes `key`, `user` and
    `total`) and `payments` (`table`, and its attributes `key`, `order` and `amount`).
    Returns the verdict of checks.carry_out.
    Raises OrderNotFound (the callback may be faster than the order), PaymentMismatch, ConfigurationError and
    ServiceUnavailable, each of them in `enforce` only.
    """
    callback = event["callback"]

    def cross_check() -> None:
        with transient_errors_named():
            _check_order(callback, event["orders"])
            _check_payment(callback, event["payments"])

    return checks.carry_out("CrossCheckPayment", event["mode"], cross_check, **checks.ids_of(callback))


def _check_order(callback: dict[str, Any], names: dict[str, str]) -> None:
    order = read_item(names["table"], names["key"], callback["orderId"], [names["user"], names["total"]])
    if order is None:
        raise OrderNotFound("The order is not there, or not there yet")
    if _value(order, names["user"], "order") != callback["userId"]:
        raise PaymentMismatch("userId: is not the order's")
    if not _is_amount(_value(order, names["total"], "order"), callback["amount"]):
        raise PaymentMismatch("amount: is not the order's total")


def _check_payment(callback: dict[str, Any], names: dict[str, str]) -> None:
    payment = read_item(names["table"], names["key"], callback["paymentId"], [names["order"], names["amount"]])
    if payment is None:
        return
    if _value(payment, names["order"], "payment") != callback["orderId"]:
        raise PaymentMismatch("paymentId: is recorded for another order")
    if not _is_amount(_value(payment, names["amount"], "payment"), callback["amount"]):
        raise PaymentMismatch("paymentId: is recorded with another amount")


def read_item(table: str, key: str, value: str, attributes: list[str]) -> dict[str, Any] | None:
    """Return these attributes of an item, as it is now, or None where there is none."""
    names = {f"#{number}": name for number, name in enumerate([key, *attributes])}
    answer = dynamodb.get_item(
        TableName=table,
        Key={key: {"S": value}},
        ConsistentRead=True,
        # With the key, because an item without the attributes would look as if it were not there.
        ProjectionExpression=", ".join(names),
        ExpressionAttributeNames=names,
    )
    item = answer.get("Item")
    return None if item is None else {name: read_value(value) for name, value in item.items()}


def _value(item: dict[str, Any], attribute: str, kind: str) -> Any:
    """Return an attribute; one that is not there is misnamed, rather than the callback wrong."""
    if attribute not in item:
        raise ConfigurationError(f"The {kind} has no attribute {attribute}.")
    return item[attribute]


def _is_amount(known: Any, amount: str | None) -> bool:
    """Tell whether an amount is the one that we know, which may be a number or text; 1.5 and 1.50 are the same."""
    if amount is None or isinstance(known, bool):
        return False
    try:
        return Decimal(known) == Decimal(amount)
    except (InvalidOperation, TypeError, ValueError):
        return False
