"""SaveCallbackRecord: stores every delivery as its own item before anything acts on it."""

from typing import Any

from callbacks import config, ledger, model, queues, times
from callbacks.deadline import Context
from callbacks.tables import CallbackRecord, bind, longest_call, try_write
from callbacks.telemetry import logger
from callbacks.transient import repeat_once, translate_transient_errors

RETENTION_DAYS = int(config.required("RECORD_RETENTION_DAYS"))


def handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Write the delivery to the channel's record table once, a paid one as waiting for its dispatch.

    The record expires after so many days that healing has long found a paid one without a dispatch; 0 is never.
    Takes `channel`, `table`, `executionArn`, `delivery` (as ValidateCallback does), `callback` (what that returned)
    and `signature` (the verdict of VerifySignature).
    Returns `deliveryId`, `isNew` (false if an earlier attempt wrote the item) and `payment`: what the ledger says of
    it, as ledger.Standing. Raises ServiceUnavailable.
    """
    ids, delivery = event["callback"], event["delivery"]
    callback = model.parse(delivery["body"])
    records = bind(CallbackRecord, event["table"])
    record = records(
        orderId=callback.order_id,
        deliveryId=ids["deliveryId"],
        paymentId=callback.payment_id,
        userId=callback.user_id,
        success=callback.success,
        amount=callback.amount,
        message=callback.message,
        extra=callback.extra,
        body=delivery["body"],
        requestId=ids["requestId"],
        receivedAt=ids["receivedAt"],
        sourceIp=delivery.get("sourceIp"),
        signatureHeaders=model.signature_headers(delivery),
        channel=event["channel"],
        shard=queues.shard_of(event["channel"], ids["requestId"]),
        executionArn=event["executionArn"],
        signature=event["signature"],
        undispatchedSince=ids["receivedAt"] if callback.success else None,
        # From now, not from the receipt: a redrive may be late.
        expiration=times.expiration(times.now(), RETENTION_DAYS) if RETENTION_DAYS else None,
    )
    with translate_transient_errors():
        look_up_seconds = longest_call(ledger.Payments)
        is_new = repeat_once(
            lambda: try_write(lambda: record.save(condition=CallbackRecord.orderId.does_not_exist())),
            context,
            longest_call(records) + look_up_seconds,
        )
        payment = repeat_once(lambda: ledger.standing_of(event["channel"], ids), context, look_up_seconds)
    logger.info(
        "Callback recorded",
        orderId=record.orderId,
        paymentId=record.paymentId,
        deliveryId=record.deliveryId,
        isNew=is_new,
    )
    return {"deliveryId": record.deliveryId, "isNew": is_new, "payment": payment}
