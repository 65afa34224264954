"""ValidateCallback: turns a delivery into a callback that follows every rule."""

from typing import Any

from callbacks import decisions, model
from callbacks.errors import InvalidCallback


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Return the callback of a delivery.

    Takes `delivery` (the workflow's input: `body`; from API Gateway `requestId`, `receivedAt` in milliseconds since
    1970, `sourceIp`, `headers`, and `bodyLength` if the body was cut; from ClaimFailure also a `decision`), and
    `executionName` and `startedAt` (ISO 8601), which replace an unusable request id or time.
    Returns what later states compare and look up, and no more, because each of them passes it on: `orderId`,
    `paymentId`, `userId`, `success`, `amount` (as text, so that it stays exact, or None), `receivedAt` (ISO 8601),
    `requestId`, `deliveryId` (both joined: the record's range key) and `decision` (its permit: `id` and `action`, or
    None).
    Raises InvalidCallback.
    """
    delivery = event["delivery"]
    if not isinstance(delivery, dict):
        raise InvalidCallback("input: must be an object with the request's body as `body`")
    callback = model.parse(delivery.get("body"), delivery.get("bodyLength"))
    request_id = model.request_id(delivery, event["executionName"])
    received_at = model.received_at(delivery, event["startedAt"])
    return {
        "orderId": callback.order_id,
        "paymentId": callback.payment_id,
        "userId": callback.user_id,
        "success": callback.success,
        "amount": None if callback.amount is None else str(callback.amount),
        "requestId": request_id,
        "receivedAt": received_at,
        "deliveryId": f"{received_at}#{request_id}",
        "decision": decisions.read_permit(delivery),
    }
