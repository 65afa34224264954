"""SaveCallbackRecord: keeps every delivery as an item of its own, before anything is done with it."""

from decimal import Decimal
from typing import Any

from callbacks.tables import CallbackRecord, bound, written
from callbacks.telemetry import logger
from callbacks.transient import transient_errors_named


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Write the delivery to the channel's record table, once; a paid one as waiting for its dispatch.

    Takes `channel`, `table`, `executionArn`, `callback` (what ValidateCallback returned) and `signature` (what is noted
    of its check).
    Returns `deliveryId` and `isNew`: false where an earlier attempt had written the item already.
    Raises ServiceUnavailable.
    """
    callback = dict(event["callback"])
    amount = callback.pop("amount")
    record = bound(CallbackRecord, event["table"])(
        **callback,
        amount=None if amount is None else Decimal(amount),
        channel=event["channel"],
        executionArn=event["executionArn"],
        signature=event["signature"],
        undispatchedSince=callback["receivedAt"] if callback["success"] else None,
    )
    with transient_errors_named():
        is_new = written(lambda: record.save(condition=CallbackRecord.orderId.does_not_exist()))
    logger.info(
        "Callback recorded",
        orderId=record.orderId,
        paymentId=record.paymentId,
        deliveryId=record.deliveryId,
        isNew=is_new,
    )
    return {"deliveryId": record.deliveryId, "isNew": is_new}
