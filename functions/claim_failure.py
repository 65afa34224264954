"""ClaimFailure: claims a failed delivery, so that no other healing run redrives it at the same time."""

import json
from datetime import timedelta
from typing import Any

from callbacks import config, redrives, request_ids, times
from callbacks.tables import CallbackError, Status, bind, try_write
from callbacks.transient import translate_transient_errors

# Longer than any redrive takes, so an expired claim belongs to a run that died.
CLAIM_TIME = timedelta(minutes=5)
MAX_EXCERPT_CHARACTERS = 4096

ErrorLog = bind(CallbackError, config.required("ERROR_LOG_TABLE"))


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Claim the failure for CLAIM_TIME, and return what its redrive needs.

    Takes `requestId` and `isManual`: an operator may claim a failure that is not due or was given up.
    Returns `decision` (`redrive`, `give up` or `skip`) and `status`; unless it is `skip`, also `attempt` (from 1),
    `reason` (to give up, or None), `input` (the callback workflow's input, as text) and `executionName`.
    Raises ServiceUnavailable.
    """
    with translate_transient_errors():
        row = ErrorLog.get(event["requestId"], consistent_read=True)
        delivery = _delivery(row)
        reason = _reason_to_give_up(row, delivery)
        is_claimable = _is_claimable(row, is_manual=event["isManual"])
        if not is_claimable or not _claim(row, row.attempts if reason else row.attempts + 1):
            return {"decision": "skip", "status": row.status}
    return {
        "decision": "give up" if reason else "redrive",
        "status": row.status,
        "attempt": row.attempts,
        "reason": reason,
        "input": redrives.as_text(_excerpt(delivery) if reason else delivery),
        "executionName": request_ids.execution_name(row.requestId, row.attempts),
    }


def _reason_to_give_up(row: CallbackError, delivery: Any) -> str | None:
    if redrives.is_too_large(delivery):
        return "The delivery is too large to redrive"
    if row.status == Status.REDRIVEN and redrives.is_last(row.attempts):
        return "The last attempt left no result"
    return None


def _excerpt(delivery: Any) -> Any:
    """Return as much of a delivery as a report needs to name the order."""
    body = delivery.get("body") if isinstance(delivery, dict) else None
    return {**delivery, "headers": {}, "body": str(body)[:MAX_EXCERPT_CHARACTERS]} if body else None


def _is_claimable(row: CallbackError, *, is_manual: bool) -> bool:
    is_due = row.nextAttemptAt is not None and row.nextAttemptAt <= times.iso(times.now())
    return is_due or (is_manual and row.status in {Status.OPEN, Status.GIVEN_UP})


def _claim(row: CallbackError, attempt: float) -> bool:
    """Claim the failure; return False if another run was faster."""
    due = CallbackError.nextAttemptAt
    return try_write(
        lambda: row.update(
            actions=[
                CallbackError.status.set(Status.REDRIVEN),
                CallbackError.attempts.set(attempt),
                due.set(times.iso(times.now() + CLAIM_TIME)),
            ],
            condition=(CallbackError.attempts == row.attempts)
            & (CallbackError.status == row.status)
            & (due == row.nextAttemptAt if row.nextAttemptAt else due.does_not_exist()),
        )
    )


def _delivery(row: CallbackError) -> Any:
    """Return the delivery as received, with the request id and time that its record's key is made of."""
    delivery = json.loads(row.event)
    if not isinstance(delivery, dict):
        return delivery
    return {**delivery, "requestId": row.requestId, "receivedAt": times.milliseconds(row.receivedAt)}
