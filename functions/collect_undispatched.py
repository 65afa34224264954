"""CollectUndispatched: moves paid deliveries without a confirmed dispatch into the error log.

An execution that dies reports nothing. Once in the error log, its delivery is a failure like any other: visible, and
redriven by healing.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import takewhile
from typing import Any

from pynamodb.expressions.condition import Condition

from callbacks import config, deadline, error_log, queues, times
from callbacks.deadline import Context
from callbacks.selection import Selection
from callbacks.tables import CallbackError, CallbackRecord, bind, longest_call, read_while
from callbacks.telemetry import logger
from callbacks.transient import translate_transient_errors

AGE = timedelta(minutes=int(config.required("DISPATCH_AGE_MINUTES")))
# From each end of each shard: the oldest, and the newest, so that they do not queue behind an outage.
KEYS_PER_END = 10

ErrorLog = bind(CallbackError, config.required("ERROR_LOG_TABLE"), retries=1)


def handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Move records that are old enough from the index into the error log, as failures that are due at once.

    Stops if the time for another record is no longer left; the rest stays in the index for the next page or run.
    Takes `channel`, `functionName`, `table` and `selection` (the healing workflow's input); a dry run moves nothing.
    A delivery that the selection names with its order is moved even if it never failed: an operator decides on it.
    Returns `requestIds`: of the failures that are new to the error log.
    Raises InvalidSelection and ServiceUnavailable.
    """
    selection = Selection.from_event(event["selection"])
    is_dry_run = event["selection"].get("dryRun", False)
    records = bind(CallbackRecord, event["table"], retries=1)

    def has_time(_: object = None) -> bool:
        # For a page of keys, and to move one record.
        return deadline.seconds_left(context) >= 3 * longest_call(records) + longest_call(ErrorLog)

    new = []
    with translate_transient_errors():
        if selection.request_id and selection.order_id:
            return {
                "requestIds": _find_named(records, selection, event["functionName"], has_time, is_dry_run=is_dry_run)
            }
        waiting = list(takewhile(has_time, _undispatched(records, event["channel"], selection, has_time)))
        known = _known(waiting)
        for key in takewhile(has_time, waiting):
            is_known = _request_id(key) in known
            if is_dry_run:
                is_new = not is_known
            elif is_known:
                is_new = False
                _leave_index(records, key)
            else:
                is_new = _move(records, key, event["functionName"])
            if is_new:
                new.append(_request_id(key))
    return {"requestIds": new}


def _undispatched(
    records: type[CallbackRecord], channel: str, selection: Selection, has_time: Callable[[], bool]
) -> Iterator[CallbackRecord]:
    """Yield the keys of the records that a run, or an operator who asks for an order or a time, looks at."""
    before = times.iso(times.now() - AGE)
    due: Condition = CallbackRecord.undispatchedSince <= before
    if selection.request_id or selection.after:
        return
    if selection.order_id:
        of_order = records.query(selection.order_id, filter_condition=due, consistent_read=True)
        yield from read_while(has_time, of_order)
        return
    if selection.since:
        if selection.since > before:
            return
        due = CallbackRecord.undispatchedSince.between(selection.since, before)
    for shard in takewhile(lambda _: has_time(), queues.shards_of(channel)):
        oldest = list(records.undispatched.query(shard, due, limit=KEYS_PER_END))
        yield from oldest
        if len(oldest) == KEYS_PER_END:
            newest = records.undispatched.query(shard, due, limit=KEYS_PER_END, scan_index_forward=False)
            seen = {key.deliveryId for key in oldest}
            yield from (key for key in newest if key.deliveryId not in seen)


def _find_named(
    records: type[CallbackRecord],
    selection: Selection,
    function_name: str,
    has_time: Callable[[], bool],
    *,
    is_dry_run: bool,
) -> list[str]:
    """Return the request id of the delivery that the selection names, if it has a record but no failure."""
    for record in read_while(has_time, records.query(selection.order_id, consistent_read=True)):
        if _request_id(record) == selection.request_id and not _known([record]):
            named = "DecisionRequested", "The delivery has not failed; an operator decides on it"
            is_new = is_dry_run or _open_failure(record, function_name, *named)
            return [_request_id(record)] if is_new else []
    return []


def _request_id(key: CallbackRecord) -> str:
    return str(key.deliveryId.partition("#")[2])


def _known(keys: list[CallbackRecord]) -> set[str]:
    """Return the request ids that have a failure in the error log, which healing or an operator looks after."""
    found = ErrorLog.batch_get([_request_id(key) for key in keys], attributes_to_get=["requestId"])
    return {row.requestId for row in found}


def _leave_index(records: type[CallbackRecord], key: CallbackRecord) -> None:
    records(key.orderId, key.deliveryId).update(actions=[CallbackRecord.undispatchedSince.remove()])


def _move(records: type[CallbackRecord], key: CallbackRecord, function_name: str) -> bool:
    """Move the record to the error log; return False if it is dispatched or its failure is there by now."""
    record = records.get(key.orderId, key.deliveryId, consistent_read=True)
    # The index may lag behind the table.
    if not record.undispatchedSince:
        return False
    cause = "The execution ended before it confirmed the dispatch"
    is_new = _open_failure(record, function_name, "DispatchUnconfirmed", cause)
    _leave_index(records, key)
    logger.info("Undispatched payment found", orderId=record.orderId, deliveryId=record.deliveryId, isNew=is_new)
    return is_new


def _open_failure(record: CallbackRecord, function_name: str, error: str, cause: str) -> bool:
    """Write the failure, unless the execution managed to write it; return whether it is new."""
    failure = error_log.failure_of(
        record,
        function_name=function_name,
        step="InvokeProcessPaid",
        error=error,
        cause=cause,
        occurred_at=record.receivedAt,
    )
    return error_log.open_failure(ErrorLog, failure, error_log.IS_NEW, times.now())
