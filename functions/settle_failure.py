"""SettleFailure: notes on a failure what came of running its delivery again, and whether it will be run once more."""

import json
from typing import Any, NamedTuple

from callbacks import config, redrives, times
from callbacks.failure import REFUSALS
from callbacks.tables import CallbackError, Status, bound, written
from callbacks.telemetry import logger
from callbacks.transient import transient_errors_named

SUCCEEDED = "SUCCEEDED"

ErrorLog = bound(CallbackError, config.required("ERROR_LOG_TABLE"))


class Result(NamedTuple):
    """What came of an execution: its HTTP status (None without an answer), and whether nothing is left to do."""

    status_code: int | None
    is_done: bool
    text: str


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Write the result, and either when the next attempt is due or that there is none.

    Takes `requestId`, `attempt` and `run`: `Status` (the execution's, or why there is none), where it has one its
    `Output` as text, and `isEnd` where none will follow.
    Returns `requestId`, `orderId`, `status`, `attempts` and `lastResult`. Raises ServiceUnavailable.
    """
    result = _read(event["run"])
    with transient_errors_named():
        row = ErrorLog.get(event["requestId"], consistent_read=True)
        # What came to no answer, or was handed on, was not refused this time.
        is_refused = result.status_code not in {None, 200} and row.error in REFUSALS
        is_last = event["run"].get("isEnd", False) or redrives.is_last(event["attempt"])
        status = _status(is_success=result.is_done, is_refused=is_refused, is_last=is_last)
        will_retry = status == Status.OPEN and not is_refused
        due = CallbackError.nextAttemptAt
        # Not where a later run has taken over; what it finds out is newer.
        written(
            lambda: row.update(
                actions=[
                    CallbackError.status.set(status),
                    CallbackError.lastResult.set(result.text),
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


def _read(run: dict[str, Any]) -> Result:
    if run["Status"] != SUCCEEDED or not run.get("Output"):
        return Result(None, is_done=False, text=run["Status"])
    answer = json.loads(run["Output"])
    body = json.loads(answer["body"])
    text = f"{answer['statusCode']} {body.get('error', body['message'])}"
    return Result(answer["statusCode"], answer["isDone"], text)


def _status(*, is_success: bool, is_refused: bool, is_last: bool) -> Status:
    if is_success:
        return Status.RESOLVED
    if is_refused or not is_last:
        return Status.OPEN
    return Status.GIVEN_UP
