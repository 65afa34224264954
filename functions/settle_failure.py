"""SettleFailure: notes on a failure what came of running its delivery again, and whether it will be run once more."""

import json
from typing import Any

from callbacks import config, redrives, times
from callbacks.failure import REFUSALS
from callbacks.tables import CallbackError, Status, bound, written
from callbacks.telemetry import logger
from callbacks.transient import transient_errors_named

SUCCEEDED = "SUCCEEDED"

ErrorLog = bound(CallbackError, config.required("ERROR_LOG_TABLE"))


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Write the result, and either when the next attempt is due or that there is none.

    Takes `requestId`, `attempt` and `run`: `status` (the execution's, or why there is none) and `output` (its output as
    text, None or empty where it has none).
    Returns `requestId`, `orderId`, `status`, `attempts` and `lastResult`. Raises ServiceUnavailable.
    """
    is_success, result = _read(event["run"])
    with transient_errors_named():
        row = ErrorLog.get(event["requestId"], consistent_read=True)
        # An execution that did not get to its end has not said what is wrong.
        is_refused = event["run"]["status"] == SUCCEEDED and row.error in REFUSALS
        status = _status(is_success=is_success, is_refused=is_refused, attempt=event["attempt"])
        will_retry = status == Status.OPEN and not is_refused
        due = CallbackError.nextAttemptAt
        # Not where a later run has taken over; what it finds out is newer.
        written(
            lambda: row.update(
                actions=[
                    CallbackError.status.set(status),
                    CallbackError.lastResult.set(result),
                    due.set(redrives.due_after(event["attempt"], times.now())) if will_retry else due.remove(),
                ],
                condition=CallbackError.attempts == event["attempt"],
            )
        )
    logger.info("Delivery run again", requestId=row.requestId, orderId=row.orderId, status=row.status)
    return {
        "requestId": row.requestId,
        "orderId": row.orderId,
        "status": row.status,
        "attempts": row.attempts,
        "lastResult": row.lastResult,
    }


def _read(run: dict[str, Any]) -> tuple[bool, str]:
    """Return whether the execution processed the delivery, and what it answered."""
    if run["status"] != SUCCEEDED or not run["output"]:
        return False, run["status"]
    answer = json.loads(run["output"])
    body = json.loads(answer["body"])
    return answer["isDone"], f"{answer['statusCode']} {body.get('error', body['message'])}"


def _status(*, is_success: bool, is_refused: bool, attempt: int) -> Status:
    if is_success:
        return Status.RESOLVED
    if is_refused or not redrives.is_last(attempt):
        return Status.OPEN
    return Status.GIVEN_UP
