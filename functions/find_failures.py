"""FindFailures: reads from the error log which deliveries are to be run again."""

from typing import Any

from pynamodb.pagination import ResultIterator

from callbacks import config, times
from callbacks.selection import Selection
from callbacks.tables import CallbackError, Status, bound
from callbacks.transient import transient_errors_named

ErrorLog = bound(CallbackError, config.required("ERROR_LOG_TABLE"))

# A failure takes at most some 65 of the 25,000 events that an execution's history holds, and the first page has up to
# 200 failures, with what was collected.
MAX_PAGES = 2

# Whoever asks by hand means all that are not done, whatever is planned for them.
UNRESOLVED = CallbackError.status != Status.RESOLVED


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Return the failures that the selection names, the oldest first.

    Takes `channel`, `functionName`, `selection` (the healing workflow's input), `collected` (what CollectUndispatched
    returned), `page` (how many pages this run has had) and `next` (where the last of them ended).
    Returns `failures`, each with what the index has of it and always `requestId`; `isManual`; `next`, where the next
    page starts, or None; `page`, and `hasMore`: whether this run goes on with another page by itself.
    Raises InvalidSelection and ServiceUnavailable.
    """
    selection = Selection.from_event(event["selection"])
    page = event["page"] + 1
    with transient_errors_named():
        rows, following = _rows(event, selection)
    found = {row.requestId: _shown(row) for row in rows}
    if page == 1:
        # An index lags behind its table.
        for collected in event["collected"]:
            found.setdefault(collected["requestId"], collected)
    return {
        "failures": list(found.values()),
        "isManual": selection.is_manual,
        "next": following,
        "page": page,
        # A person goes on from `next` in another execution.
        "hasMore": not selection.is_manual and following is not None and page < MAX_PAGES,
    }


def _rows(event: dict[str, Any], selection: Selection) -> tuple[list[CallbackError], Any]:
    if selection.request_id:
        try:
            row = ErrorLog.get(selection.request_id, consistent_read=True)
        except ErrorLog.DoesNotExist:
            return [], None
        return ([] if row.status == Status.RESOLVED else [row]), None
    rows = _query(event, selection)
    return list(rows), rows.last_evaluated_key


def _query(event: dict[str, Any], selection: Selection) -> ResultIterator[CallbackError]:
    if selection.order_id:
        index, key, in_time, status = ErrorLog.byOrder, selection.order_id, None, UNRESOLVED
    elif selection.since:
        in_time = CallbackError.occurredAt >= selection.since
        index, key, status = ErrorLog.byFunction, event["functionName"], UNRESOLVED
    else:
        in_time = CallbackError.nextAttemptAt <= times.iso(times.now())
        index, key, status = ErrorLog.due, event["channel"], None
    rows: ResultIterator[CallbackError] = index.query(
        key, in_time, status, limit=selection.limit, last_evaluated_key=event["next"] or selection.after
    )
    return rows


def _shown(row: CallbackError) -> dict[str, Any]:
    return {
        "requestId": row.requestId,
        "orderId": row.orderId,
        "chargeId": row.chargeId,
        "occurredAt": row.occurredAt,
        "step": row.step,
        "error": row.error,
        "status": row.status,
        "attempts": row.attempts,
    }
