"""SettleFailure: stores the outcome of a redrive, and whether another one follows."""

import json
from typing import Any, NamedTuple

from callbacks import config, redrives, times
from callbacks.failure import FOR_OPERATORS
from callbacks.tables import CallbackError, Status, bind, try_write
from callbacks.telemetry import logger
from callbacks.transient import translate_transient_errors

SUCCEEDED = "SUCCEEDED"

ErrorLog = bind(CallbackError, config.required("ERROR_LOG_TABLE"), retries=1)


class Result(NamedTuple):
    """How an execution ended: its HTTP status (None without an answer), and whether nothing is left to do."""

    status_code: int | None
    is_done: bool
    text: str


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Store the result, and when the next attempt is due, if there is one.

    Takes `requestId`, `attempt` and `run`: the execution (`Status`, and `Output` as text if it has one), the error that
    prevented it (`Error`), the `reason` why there will be none, or a `dismissal`, which resolves the failure.
    Returns `requestId`, `orderId`, `status`, `attempts` and `lastResult`. Raises ServiceUnavailable.
    """
    result = _read(event["run"])
    is_last = "reason" in event["run"] or redrives.is_last(event["attempt"])
    with translate_transient_errors():
        row = ErrorLog.get(event["requestId"], consistent_read=True)
    # The row has this redrive's error only if it was answered, and with something other than 200.
    is_refused = result.status_code not in {None, 200} and row.error in FOR_OPERATORS
    # A decision counts for one redrive: if that fails, the operator decides again.
    needs_operator = is_refused or ("reason" not in event["run"] and row.is_decided(event["attempt"]))
    status = _status(is_success=result.is_done, needs_operator=needs_operator, is_last=is_last)
    will_retry = status == Status.OPEN and not needs_operator
    due = CallbackError.nextAttemptAt
    with translate_transient_errors():
        # Skipped if a later run took over: its result is newer.
        try_write(
            lambda: row.update(
                actions=[
                    CallbackError.status.set(status),
                    CallbackError.lastResult.set(result.text),
                    due.set(redrives.due_after(event["attempt"], times.now())) if will_retry else due.remove(),
                ],
                condition=CallbackError.attempts == event["attempt"],
            )
        )
    logger.info("Failure settled", requestId=row.requestId, orderId=row.orderId, status=row.status)
    return {
        "requestId": row.requestId,
        "orderId": row.orderId,
        "status": row.status,
        "attempts": row.attempts,
        "lastResult": row.lastResult,
    }


def _read(run: dict[str, Any]) -> Result:
    if "dismissal" in run:
        return Result(None, is_done=True, text=run["dismissal"])
    if run.get("Status") != SUCCEEDED or not run.get("Output"):
        return Result(None, is_done=False, text=run.get("Status") or run.get("Error") or run["reason"])
    answer = json.loads(run["Output"])
    body = json.loads(answer["body"])
    text = f"{answer['statusCode']} {body.get('error', body['message'])}"
    return Result(answer["statusCode"], answer["isDone"], text)


def _status(*, is_success: bool, needs_operator: bool, is_last: bool) -> Status:
    if is_success:
        return Status.RESOLVED
    if needs_operator or not is_last:
        return Status.OPEN
    return Status.GIVEN_UP
