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

ErrorLog = bound(CallbackError, config.required("ERROR_LOG_TABLE"))


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Mark the failure as being run again, and return what its delivery is to be run with.

    Takes `requestId` and `isManual`: a person may also claim what is not due, or was given up.
    Returns `isClaimed`, `status` and, where it is claimed, `attempt` (1 is the first), `input` (the callback workflow's
    input, as text) and `executionName`. Raises ServiceUnavailable.
    """
    with transient_errors_named():
        row = ErrorLog.get(event["requestId"], consistent_read=True)
        now = times.iso(times.now())
        if not _is_claimable(row, now, is_manual=event["isManual"]) or not _claim(row):
            return {"isClaimed": False, "status": row.status}
    return {
        "isClaimed": True,
        "status": row.status,
        "attempt": row.attempts,
        "input": json.dumps(_delivery(row)),
        # Found by a search for the request id, as the first execution is.
        "executionName": f"{re.sub('[^A-Za-z0-9_-]', '-', row.requestId)[:60]}-redrive-{row.attempts}",
    }


def _is_claimable(row: CallbackError, now: str, *, is_manual: bool) -> bool:
    is_due = row.nextAttemptAt is not None and row.nextAttemptAt <= now
    return is_due or (is_manual and row.status in {Status.OPEN, Status.GIVEN_UP})


def _claim(row: CallbackError) -> bool:
    """Count the attempt; return False where another run was faster.

    The last attempt is given up in advance, so that one which dies on the way is not made for ever.
    """
    attempt = row.attempts + 1
    is_last = redrives.is_last(attempt)
    due = CallbackError.nextAttemptAt
    return written(
        lambda: row.update(
            actions=[
                CallbackError.status.set(Status.GIVEN_UP if is_last else Status.REDRIVEN),
                CallbackError.attempts.set(attempt),
                due.remove() if is_last else due.set(times.iso(times.now() + LEASE)),
            ],
            condition=(CallbackError.attempts == row.attempts) & (CallbackError.status == row.status),
        )
    )


def _delivery(row: CallbackError) -> Any:
    """Return the delivery as it came, with the request id and the time by which its record is known."""
    delivery = json.loads(row.event)
    if not isinstance(delivery, dict):
        return delivery
    return {**delivery, "requestId": row.requestId, "receivedAt": times.milliseconds(row.receivedAt)}
