"""InvokeProcessPaid: hands a paid callback to the function that completes the order, once per payment."""

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
    IdempotencyValidationError,
)
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config

from callbacks import config, model
from callbacks.errors import DispatchInProgress, PaymentConflict
from callbacks.telemetry import logger
from callbacks.transient import transient_errors_named

SECONDS_PER_DAY = 24 * 60 * 60

# Both calls of a first dispatch fit into the step's timeout; the client's one more attempt covers a single throttle.
CLIENT_CONFIG = Config(connect_timeout=0.5, read_timeout=1, retries={"total_max_attempts": 1})
CLAIM_CONFIG = Config(connect_timeout=0.5, read_timeout=0.5, retries={"total_max_attempts": 2, "mode": "standard"})

lambda_client = boto3.client("lambda", config=CLIENT_CONFIG)
claims = DynamoDBPersistenceLayer(table_name=config.required("IDEMPOTENCY_TABLE"), boto_config=CLAIM_CONFIG)
idempotency = IdempotencyConfig(
    event_key_jmespath="[channel, orderId, paymentId]",
    payload_validation_jmespath="[userId, amount]",
    raise_on_no_idempotency_key=True,
    expires_after_seconds=int(config.required("IDEMPOTENCY_DAYS")) * SECONDS_PER_DAY,
    hash_function="sha256",
)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Invoke the process-paid function asynchronously; its payload is the body, byte for byte as it was received.

    Takes `channel`, `function` (name of the process-paid function) and `callback` (what ValidateCallback
    returned).
    Returns `dispatchedBy`, the `deliveryId` whose invoke Lambda accepted, and `isDuplicate`: true where that was
    another delivery of the same payment.
    Raises PaymentConflict, DispatchInProgress and ServiceUnavailable.
    """
    callback = event["callback"]
    # A function that is killed gives its claim back when its time is up.
    idempotency.register_lambda_context(context)
    payment = {
        "channel": event["channel"],
        "orderId": callback["orderId"],
        "paymentId": callback["paymentId"],
        "userId": callback["userId"],
        "amount": model.canonical_amount(callback["amount"]),
    }
    try:
        with transient_errors_named():
            dispatched_by = dispatch(payment=payment, function=event["function"], callback=callback)
    except IdempotencyValidationError:
        raise PaymentConflict("The payment was delivered before, for another amount or user") from None
    except (IdempotencyAlreadyInProgressError, IdempotencyInconsistentStateError) as error:
        raise DispatchInProgress("Another delivery of the payment is being processed") from error
    is_duplicate = dispatched_by != callback["deliveryId"]
    logger.info(
        "Payment was dispatched already" if is_duplicate else "Process-paid invoked",
        orderId=callback["orderId"],
        paymentId=callback["paymentId"],
        deliveryId=callback["deliveryId"],
        dispatchedBy=dispatched_by,
    )
    return {"dispatchedBy": dispatched_by, "isDuplicate": is_duplicate}


@idempotent_function(  # type: ignore[untyped-decorator]
    data_keyword_argument="payment",
    persistence_store=claims,
    config=idempotency,
    # Otherwise the key holds the names of this function, and renaming one forgets every payment.
    key_prefix="payment",
)
def dispatch(*, payment: dict[str, Any], function: str, callback: dict[str, Any]) -> str:
    """Invoke once per payment; return the delivery that was dispatched, this one or an earlier one."""
    lambda_client.invoke(FunctionName=function, InvocationType="Event", Payload=callback["body"].encode())
    return str(callback["deliveryId"])
