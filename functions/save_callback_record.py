"""SaveCallbackRecord: stores every delivery as its own item before anything acts on it."""

from decimal import Decimal
from typing import Any

from callbacks import ledger
from callbacks.tables import CallbackRecord, bind, try_write
from callbacks.telemetry import logger
from callbacks.transient import translate_transient_errors


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Write the delivery to the channel's record table once, a paid one as waiting for its dispatch.

    Takes `channel`, `table`, `executionArn`, `callback` (what ValidateCallback returned) and `signature` (the verdict
    of VerifySignature).
    Returns `deliveryId`, `isNew` (false if an earlier attempt wrote the item) and `payment`: what the ledger says of
    it, as ledger.Standing. Raises ServiceUnavailable.
    """
    callback = dict(event["callback"])
    amount = callback.pop("amount")
    # The failure and the ledger keep it.
    callback.pop("decision", None)
    record = bind(CallbackRecord, event["table"])(
        **callback,
        amount=None if amount is None else Decimal(amount),
        channel=event["channel"],
        executionArn=event["executionArn"],
        signature=event["signature"],
        undispatchedSince=callback["receivedAt"] if callback["success"] else None,
    )
    with translate_transient_errors():
        is_new = try_write(lambda: record.save(condition=CallbackRecord.orderId.does_not_exist()))
        payment = ledger.standing_of(event["channel"], event["callback"])
    logger.info(
        "Callback recorded",
        orderId=record.orderId,
        paymentId=record.paymentId,
        deliveryId=record.deliveryId,
        isNew=is_new,
    )
    return {"deliveryId": record.deliveryId, "isNew": is_new, "payment": payment}
