"""InquirePayment: asks the bank itself whether the payment was made, before it is believed."""

from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from typing import Any

from callbacks import checks, secrets
from callbacks.bank import Bank, HttpBank
from callbacks.errors import ConfigurationError, PaymentMismatch, PaymentNotConfirmed
from callbacks.transient import transient_errors_named


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Compare the callback with what the bank says of the payment.

    Takes `callback` (what ValidateCallback returned), `mode` and `secret` (its name).
    Returns the verdict of checks.carry_out.
    Raises PaymentNotConfirmed, PaymentMismatch, ServiceUnavailable and ConfigurationError, each in `enforce` only.
    """
    callback = event["callback"]

    def inquire() -> None:
        with transient_errors_named():
            _confirm(bank_of(secrets.read(event["secret"])), callback)

    return checks.carry_out("InquirePayment", event["mode"], inquire, **checks.ids_of(callback))


def _confirm(bank: Bank, callback: dict[str, Any]) -> None:
    inquiry = bank.inquire(callback["orderId"], callback["paymentId"])
    if not inquiry.is_paid:
        raise PaymentNotConfirmed("The bank does not say that the payment was made")
    if callback["amount"] is None or inquiry.amount != Decimal(callback["amount"]):
        raise PaymentMismatch("amount: is not the one that the bank knows")


def bank_of(secret: Mapping[str, Any]) -> Bank:
    """Return the bank that a secret gives access to. Raises ConfigurationError; its message does not show it."""
    access: Any = secret.get("inquiry")
    try:
        return _http_bank(access["baseUrl"], access["clientId"], access["clientSecret"])
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ConfigurationError("The secret has no inquiry with baseUrl, clientId and clientSecret.") from None


# One per access, because it keeps its connection and its token.
_http_bank = cache(HttpBank)
