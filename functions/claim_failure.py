"""ClaimFailure: takes one failed delivery for this run, so that no other run takes it at the same time."""

import json
import re
from datetime import timedelta
from typing import Any

from callbacks import config, redrives, times
from callbacks.tables import CallbackError, Status, bound, written
from callbacks.transient import transient_errors_named

# Longer than a delivery takes to be run again: whoever claimed it and died has given it back by then.
LEASE = timedelta(minutes=5)
MAX_TOLD_CHARACTERS = 4096

ErrorLog = bound(CallbackError, config.required("ERROR_LOG_TABLE"))


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Mark the failure as being run again, and return what its delivery is to be run with.

    Takes `requestId` and `isManual`: a person may also claim what is not due, or was given up.
    Returns `isClaimed`, `status` and, where it is claimed, `attempt` (1 is the first), `isEnd` and `end` (why it cannot
    be run again, and is given up), `input` (the callback workflow's input, as text) and `executionName`.
    Raises ServiceUnavailable.
    """
    with transient_errors_named():
        row = ErrorLog.get(event["requestId"], consistent_read=True)
        delivery = _delivery(row)
        end = _end(row, delivery)
        is_claimable = _is_claimable(row, is_manual=event["isManual"])
        if not is_claimable or not _claim(row, row.attempts if end else row.attempts + 1):
            return {"isClaimed": False, "status": row.status}
    return {
        "isClaimed": True,
        "status": row.status,
        "attempt": row.attempts,
        "isEnd": end is not None,
        "end": end,
        "input": redrives.as_text(_told(delivery) if end else delivery),
        # Found by a search for the request id, as the first execution is.
        "executionName": f"{re.sub('[^A-Za-z0-9_-]', '-', row.requestId)[:60]}-redrive-{row.attempts}",
    }


def _end(row: CallbackError, delivery: Any) -> str | None:
    if redrives.is_too_large(delivery):
        return "The delivery is too large to be run again"
    if row.status == Status.REDRIVEN and redrives.is_last(row.attempts):
        return "The last attempt has left no result"
    return None


def _told(delivery: Any) -> Any:
    """Return as much of a delivery as a report needs to name the order."""
    body = delivery.get("body") if isinstance(delivery, dict) else None
    return {**delivery, "headers": {}, "body": str(body)[:MAX_TOLD_CHARACTERS]} if body else None


def _is_claimable(row: CallbackError, *, is_manual: bool) -> bool:
    is_due = row.nextAttemptAt is not None and row.nextAttemptAt <= times.iso(times.now())
    return is_due or (is_manual and row.status in {Status.OPEN, Status.GIVEN_UP})


def _claim(row: CallbackError, attempt: float) -> bool:
    """Take the failure for the time of the lease; return False where another run was faster."""
    due = CallbackError.nextAttemptAt
    return written(
        lambda: row.update(
            actions=[
                CallbackError.status.set(Status.REDRIVEN),
                CallbackError.attempts.set(attempt),
                due.set(times.iso(times.now() + LEASE)),
            ],
            condition=(CallbackError.attempts == row.attempts)
            & (CallbackError.status == row.status)
            & (due == row.nextAttemptAt if row.nextAttemptAt else due.does_not_exist()),
        )
    )


def _delivery(row: CallbackError) -> Any:
    """Return the delivery as it came, with the request id and the time by which its record is known."""
    delivery = json.loads(row.event)
    if not isinstance(delivery, dict):
        return delivery
    return {**delivery, "requestId": row.requestId, "receivedAt": times.milliseconds(row.receivedAt)}
