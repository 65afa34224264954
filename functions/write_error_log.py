"""WriteErrorLog: keeps the failure and the delivery that caused it, so that it can be explained and run again."""

import json
from typing import Any

from callbacks import config
from callbacks.failure import Failure
from callbacks.tables import CallbackError, bound
from callbacks.transient import transient_errors_named

ErrorLog = bound(CallbackError, config.required("ERROR_LOG_TABLE"))


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Write one item per failed execution; a second attempt writes the same item again.

    Takes what Failure.from_event takes. Returns `reported`: true. Raises ServiceUnavailable.
    """
    failure = Failure.from_event(event)
    with transient_errors_named():
        ErrorLog(
            executionArn=failure.execution_arn,
            functionName=failure.function_name,
            occurredAt=failure.occurred_at,
            channel=failure.channel,
            step=failure.step,
            error=failure.error,
            cause=failure.cause,
            orderId=failure.order_id,
            chargeId=failure.charge_id,
            requestId=failure.request_id,
            event=json.dumps(failure.event),
        ).save()
    return {"reported": True}
