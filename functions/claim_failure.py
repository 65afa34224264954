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
    Returns `isClaimed`, `status` and, where it is claimed, `attempt` (1 is the first), `isExhausted` (that attempt was
    the last and has not said what came of it: it is not made again), `input` (the callback workflow's input, as text)
    and `executionName`. Raises ServiceUnavailable.
    """
    is_manual = event["isManual"]
    with transient_errors_named():
        row = ErrorLog.get(event["requestId"], consistent_read=True)
        is_exhausted = redrives.is_last(row.attempts) and not is_manual
        delivery = _delivery(row)
        is_claimable = _is_claimable(row, is_manual=is_manual) and not redrives.is_too_large(delivery)
        if not is_claimable or not _claim(row, row.attempts if is_exhausted else row.attempts + 1):
            return {"isClaimed": False, "status": row.status}
    return {
        "isClaimed": True,
        "status": row.status,
        "attempt": row.attempts,
        "isExhausted": is_exhausted,
        "input": json.dumps(delivery),
        # Found by a search for the request id, as the first execution is.
        "executionName": f"{re.sub('[^A-Za-z0-9_-]', '-', row.requestId)[:60]}-redrive-{row.attempts}",
    }


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
