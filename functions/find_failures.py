"""FindFailures: reads from the error log which deliveries to redrive."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext
from pynamodb.pagination import ResultIterator

from callbacks import config, deadline, times
from callbacks.selection import Selection
from callbacks.tables import CallbackError, Status, bind, longest_call, read_while
from callbacks.transient import translate_transient_errors

ErrorLog = bind(CallbackError, config.required("ERROR_LOG_TABLE"), retries=1)

# A failure takes at most some 65 of the 25,000 events in an execution's history, and the first page has up to 200
# failures, with those that CollectUndispatched found.
MAX_PAGES = 2

# An operator who asks means every unresolved failure, due or not.
UNRESOLVED = CallbackError.status != Status.RESOLVED


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Return the failures that the selection names, oldest first; fewer if the time ends, and `next` continues there.

    Takes `channel`, `functionName`, `selection` (the healing workflow's input), `collected` (what CollectUndispatched
    returned), `page` (the number of pages this run has read) and `next` (where the last of them ended).
    Returns `failures`, each with `requestId` and what the index has, and with its `cause` if an operator decides on it;
    `isManual`; `decision`, the operator's, or None; `next`, where the next page starts, or None; `page`; and `hasMore`,
    whether this run continues with another page.
    Raises InvalidSelection and ServiceUnavailable.
    """
    selection = Selection.from_event(event["selection"])
    page = event["page"] + 1
    with translate_transient_errors():
        rows, following = _read_page(event, selection, context)
    found = {row.requestId: _summary(row) | ({"cause": row.cause} if selection.decision else {}) for row in rows}
    if page == 1:
        # An index may lag behind its table.
        for collected in event["collected"]:
            found.setdefault(collected["requestId"], collected)
    return {
        "failures": list(found.values()),
        "isManual": selection.is_manual,
        "decision": selection.decision,
        "next": following,
        "page": page,
        # For an operator, redrive.py continues from `next` in another execution.
        "hasMore": not selection.is_manual and following is not None and page < MAX_PAGES,
    }


def _read_page(event: dict[str, Any], selection: Selection, context: LambdaContext) -> tuple[list[CallbackError], Any]:
    if selection.request_id:
        try:
            row = ErrorLog.get(selection.request_id, consistent_read=True)
        except ErrorLog.DoesNotExist:
            return [], None
        # A decision may concern a payment that counts as dispatched.
        is_left_alone = row.status == Status.RESOLVED and selection.decision is None
        return ([] if is_left_alone else [row]), None

    def has_time() -> bool:
        return deadline.seconds_left(context) >= longest_call(ErrorLog)

    # A filter may leave nothing of a page, so the failures may be on many pages.
    rows: ResultIterator[CallbackError] = read_while(has_time, _query(event, selection))
    return list(rows), rows.last_evaluated_key


def _query(event: dict[str, Any], selection: Selection) -> Any:
    page: dict[str, Any] = {"limit": selection.limit, "last_evaluated_key": event["next"] or selection.after}
    if selection.order_id:
        return ErrorLog.byOrder.query(selection.order_id, None, UNRESOLVED, **page)
    if selection.since:
        has_failed_since = CallbackError.occurredAt >= selection.since
        return ErrorLog.byFunction.query(event["functionName"], has_failed_since, UNRESOLVED, **page)
    is_due = CallbackError.nextAttemptAt <= times.iso(times.now())
    return ErrorLog.due.query(event["channel"], is_due, **page)


def _summary(row: CallbackError) -> dict[str, Any]:
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
