"""InquirePayment: asks the bank whether the payment was made."""

from decimal import Decimal
from typing import Any

from callbacks import bank, bank_secret
from callbacks.checks import check
from callbacks.deadline import Context
from callbacks.errors import PaymentMismatch, PaymentNotConfirmed


@check("InquirePayment")
def handler(event: dict[str, Any], context: Context) -> None:
    """Check that the bank confirms the payment and its amount.

    Takes `callback` (what ValidateCallback returned), `mode` and `secret` (its name).
    Returns the verdict of checks.check.
    Raises PaymentNotConfirmed, PaymentMismatch, ServiceUnavailable and ConfigurationError.
    """
    callback = event["callback"]
    secret = bank_secret.read(event["secret"], context, then=bank.INQUIRY_SECONDS)
    inquiry = bank.connect(secret).inquire(callback["orderId"], callback["paymentId"])
    if not inquiry.is_paid:
        raise PaymentNotConfirmed("The bank does not confirm the payment")
    if callback["amount"] is None or inquiry.amount != Decimal(callback["amount"]):
        raise PaymentMismatch("amount: is not the bank's")
