"""InvokeProcessPaid: dispatches a paid callback to the function that completes the order, once per payment."""

from typing import Any

import boto3
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)
from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyAlreadyInProgressError,
    IdempotencyInconsistentStateError,
    IdempotencyPersistenceLayerError,
    IdempotencyValidationError,
)
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config

from callbacks import config, model
from callbacks.errors import DispatchInProgress, PaymentConflict
from callbacks.telemetry import logger
from callbacks.transient import translate_transient_errors

CONFLICT = "The payment was delivered before with another amount or user"
SECONDS_PER_DAY = 24 * 60 * 60

# Any one of the four calls may be slow or throttled once within the function's timeout; not all of them.
CLIENT_CONFIG = Config(connect_timeout=0.5, read_timeout=1, retries={"total_max_attempts": 1})
CLAIM_CONFIG = Config(connect_timeout=0.5, read_timeout=0.5, retries={"total_max_attempts": 2, "mode": "standard"})

lambda_client = boto3.client("lambda", config=CLIENT_CONFIG)
dynamodb = boto3.client("dynamodb", config=CLAIM_CONFIG)
claims = DynamoDBPersistenceLayer(table_name=config.required("IDEMPOTENCY_TABLE"), boto_config=CLAIM_CONFIG)
idempotency = IdempotencyConfig(
    event_key_jmespath="[channel, orderId, paymentId]",
    payload_validation_jmespath="[userId, amount]",
    raise_on_no_idempotency_key=True,
    expires_after_seconds=int(config.required("IDEMPOTENCY_DAYS")) * SECONDS_PER_DAY,
    hash_function="sha256",
)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Invoke the process-paid function asynchronously with the body, byte for byte as received.

    Takes `channel`, `function` (name of the process-paid function), `table` (the channel's records) and `callback`
    (what ValidateCallback returned).
    Returns `dispatchedBy`, the `deliveryId` whose invoke Lambda accepted, and `isDuplicate`: true if that was another
    delivery of the same payment.
    Raises PaymentConflict, DispatchInProgress and ServiceUnavailable.
    """
    callback = event["callback"]
    # Powertools needs the remaining time: the claim of a killed function expires with the function's timeout.
    idempotency.register_lambda_context(context)
    payment = {
        "channel": event["channel"],
        "orderId": callback["orderId"],
        "paymentId": callback["paymentId"],
        "userId": callback["userId"],
        "amount": model.canonical_amount(callback["amount"]),
    }
    try:
        with translate_transient_errors():
            dispatched_by = _dispatch_or_find(payment, event)
    except IdempotencyValidationError:
        raise PaymentConflict(CONFLICT) from None
    except (IdempotencyAlreadyInProgressError, IdempotencyInconsistentStateError) as error:
        raise DispatchInProgress("Another delivery of the payment is being dispatched") from error
    is_duplicate = dispatched_by != callback["deliveryId"]
    logger.info(
        "Payment already dispatched" if is_duplicate else "Process-paid invoked",
        orderId=callback["orderId"],
        paymentId=callback["paymentId"],
        deliveryId=callback["deliveryId"],
        dispatchedBy=dispatched_by,
    )
    return {"dispatchedBy": dispatched_by, "isDuplicate": is_duplicate}


def _dispatch_or_find(payment: dict[str, Any], event: dict[str, Any]) -> str:
    """Return the delivery of the payment that was dispatched: this one or an earlier one."""
    accepted: list[str] = []
    try:
        return str(_dispatch(payment=payment, event=event, accepted=accepted))
    except IdempotencyPersistenceLayerError:
        if not accepted:
            raise
        # Lambda accepted the invoke, only the claim was not completed: another attempt would dispatch again.
        logger.warning("The dispatch could not be stored", deliveryId=accepted[0])
        return accepted[0]


@idempotent_function(  # type: ignore[untyped-decorator]
    data_keyword_argument="payment",
    persistence_store=claims,
    config=idempotency,
    # By default the key contains this function's name: renaming it would forget every payment.
    key_prefix="payment",
)
def _dispatch(*, payment: dict[str, Any], event: dict[str, Any], accepted: list[str]) -> str:
    """Invoke once per payment; `accepted` receives the dispatched delivery even if completing the claim then fails."""
    callback = event["callback"]
    earlier = _find_recorded_dispatch(payment, event["table"])
    if not earlier:
        answer = lambda_client.invoke(
            FunctionName=event["function"], InvocationType="Event", Payload=callback["body"].encode()
        )
        # Otherwise the connection stays open until the garbage collector finds it.
        answer["Payload"].close()
    accepted.append(earlier or callback["deliveryId"])
    return accepted[0]


def _find_recorded_dispatch(payment: dict[str, Any], table: str) -> str | None:
    """Return the delivery of the payment that was dispatched according to the records, or None.

    Records show dispatches whose claim was never completed or has expired. Only the latest page is read, 1 MB, so that
    many deliveries of an order cannot make this slow.
    Raises PaymentConflict if the dispatched delivery had another amount or user.
    """
    answer = dynamodb.query(
        TableName=table,
        KeyConditionExpression="orderId = :order",
        FilterExpression="paymentId = :payment AND channel = :channel AND attribute_exists(dispatchedBy)",
        ProjectionExpression="dispatchedBy, userId, amount",
        ExpressionAttributeValues={
            ":order": {"S": payment["orderId"]},
            ":payment": {"S": payment["paymentId"]},
            ":channel": {"S": payment["channel"]},
        },
        ConsistentRead=True,
        ScanIndexForward=False,
    )
    for record in answer["Items"]:
        amount = model.canonical_amount(record["amount"]["N"]) if "amount" in record else None
        if (record["userId"]["S"], amount) != (payment["userId"], payment["amount"]):
            raise PaymentConflict(CONFLICT)
        return record["dispatchedBy"]["S"]
    return None
