"""InvokeProcessPaid: hands a paid callback to the function that completes the order."""

from typing import Any

import boto3
from botocore.config import Config

from callbacks.telemetry import logger
from callbacks.transient import transient_errors_named

lambda_client = boto3.client(
    "lambda", config=Config(connect_timeout=0.5, read_timeout=1.2, retries={"total_max_attempts": 1})
)


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Invoke the process-paid function asynchronously; its payload is the body, byte for byte as it was received.

    Takes `function` (name or ARN of the process-paid function) and `callback` (what ValidateCallback returned).
    Returns `accepted`: true, once Lambda has queued the event.
    Raises ServiceUnavailable.
    """
    callback = event["callback"]
    with transient_errors_named():
        lambda_client.invoke(FunctionName=event["function"], InvocationType="Event", Payload=callback["body"].encode())
    logger.info(
        "Process-paid invoked",
        orderId=callback["orderId"],
        paymentId=callback["paymentId"],
        deliveryId=callback["deliveryId"],
    )
    return {"accepted": True}
