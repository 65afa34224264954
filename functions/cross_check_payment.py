"""CrossCheckPayment: compares the callback with the order and the payment on record."""

from decimal import Decimal, InvalidOperation
from typing import Any

from callbacks import items
from callbacks.checks import check
from callbacks.deadline import Context
from callbacks.errors import ConfigurationError, OrderNotFound, PaymentMismatch, PaymentNotFound


@check("CrossCheckPayment")
def handler(event: dict[str, Any], context: Context) -> None:
    """Check that the order exists and has this user and total, and that no other order or amount has this payment.

    Takes `callback` (what ValidateCallback returned), `mode`, `orders` (`table`, and its attributes `key`, `user` and
    `total`) and `payments` (`table`, its attributes `key`, `order` and `amount`, and `required`: `true` if the payment
    must be in the table).
    Returns the verdict of checks.check.
    Raises OrderNotFound, PaymentNotFound, PaymentMismatch, ConfigurationError and ServiceUnavailable.
    """
    callback, orders, payments = event["callback"], event["orders"], event["payments"]
    # Both are read before one is looked at, so that the time does not tell what is wrong.
    order = items.read(orders["table"], orders["key"], callback["orderId"], [orders["user"], orders["total"]])
    payment = items.read(
        payments["table"], payments["key"], callback["paymentId"], [payments["order"], payments["amount"]]
    )
    _check_order(order, callback, orders)
    _check_payment(payment, callback, payments)


def _check_order(order: dict[str, Any] | None, callback: dict[str, Any], names: dict[str, str]) -> None:
    if order is None:
        raise OrderNotFound("The order does not exist, or not yet")
    if _value(order, names["user"], "order") != callback["userId"]:
        raise PaymentMismatch("userId: is not the order's")
    if not _is_same_amount(_value(order, names["total"], "order"), callback["amount"]):
        raise PaymentMismatch("amount: is not the order's total")


def _check_payment(payment: dict[str, Any] | None, callback: dict[str, Any], names: dict[str, str]) -> None:
    if payment is None:
        if names["required"] == "true":
            raise PaymentNotFound("The payment is not in the master payment table, or not yet")
        return
    if _value(payment, names["order"], "payment") != callback["orderId"]:
        raise PaymentMismatch("paymentId: is recorded for another order")
    if not _is_same_amount(_value(payment, names["amount"], "payment"), callback["amount"]):
        raise PaymentMismatch("paymentId: is recorded with another amount")


def _value(item: dict[str, Any], attribute: str, kind: str) -> Any:
    """Return an attribute. A missing one means that the setting is wrong, not the callback."""
    if attribute not in item:
        raise ConfigurationError(f"The {kind} has no attribute {attribute}.")
    return item[attribute]


def _is_same_amount(known: Any, amount: str | None) -> bool:
    """Return whether a stored amount, a number or text, equals the callback's; 1.5 and 1.50 are equal."""
    if amount is None or isinstance(known, bool):
        return False
    try:
        return Decimal(known) == Decimal(amount)
    except (InvalidOperation, TypeError, ValueError):
        return False
