"""CollectUndispatched: moves paid deliveries without a confirmed dispatch into the error log.

An execution that dies reports nothing. Once in the error log, its delivery is a failure like any other: visible, and
redriven by healing.
"""

from collections.abc import Iterator
from datetime import timedelta
from itertools import takewhile
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext
from pynamodb.expressions.condition import Condition

from callbacks import config, deadline, error_log, times
from callbacks.selection import Selection
from callbacks.tables import CallbackError, CallbackRecord, bind, longest_call, read_while, try_write
from callbacks.telemetry import logger
from callbacks.transient import translate_transient_errors

AGE = timedelta(minutes=int(config.required("DISPATCH_AGE_MINUTES")))
ErrorLog = bind(CallbackError, config.required("ERROR_LOG_TABLE"), retries=1)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Move records that are old enough from the index into the error log, as failures that are due at once.

    Stops if the time for another record is no longer left; the rest stays in the index for the next run.
    Takes `channel`, `functionName`, `table` and `selection` (the healing workflow's input); a dry run moves nothing.
    Returns `failures`: `requestId` and `orderId` of those that are new to the error log.
    Raises InvalidSelection and ServiceUnavailable.
    """
    selection = Selection.from_event(event["selection"])
    is_dry_run = event["selection"].get("dryRun", False)
    collected = []
    with translate_transient_errors():
        for record in _undispatched(event, selection, context):
            is_new = _is_unknown(record) if is_dry_run else _move(record, event["functionName"])
            if is_new:
                collected.append({"requestId": record.requestId, "orderId": record.orderId})
    return {"failures": collected}


def _undispatched(event: dict[str, Any], selection: Selection, context: LambdaContext) -> Iterator[CallbackRecord]:
    records = bind(CallbackRecord, event["table"], retries=1)
    before = times.iso(times.now() - AGE)
    due: Condition = CallbackRecord.undispatchedSince <= before
    if selection.request_id or selection.after:
        return
    page_and_record_seconds = 3 * longest_call(records) + longest_call(ErrorLog)

    def has_time(_: object = None) -> bool:
        return deadline.seconds_left(context) >= page_and_record_seconds

    if selection.order_id:
        of_order = records.query(selection.order_id, filter_condition=due, consistent_read=True)
        yield from takewhile(has_time, read_while(has_time, of_order))
        return
    if selection.since:
        if selection.since > before:
            return
        due = CallbackRecord.undispatchedSince.between(selection.since, before)
    by_age = records.undispatched.query(event["channel"], due, limit=selection.limit)
    for key in takewhile(has_time, read_while(has_time, by_age)):
        record = records.get(key.orderId, key.deliveryId, consistent_read=True)
        # The index may lag behind the table.
        if record.undispatchedSince:
            yield record


def _is_unknown(record: CallbackRecord) -> bool:
    return not ErrorLog.count(record.requestId, consistent_read=True)


def _move(record: CallbackRecord, function_name: str) -> bool:
    """Move the record to the error log; return False if its failure is there already."""
    is_new = _open_failure(record, function_name)
    record.update(actions=[CallbackRecord.undispatchedSince.remove()])
    logger.info("Undispatched payment found", orderId=record.orderId, deliveryId=record.deliveryId, isNew=is_new)
    return is_new


def _open_failure(record: CallbackRecord, function_name: str) -> bool:
    """Write the failure, unless the execution managed to write it; return whether it is new."""
    failure = error_log.failure_of(
        record,
        function_name=function_name,
        step="ConfirmDispatch",
        error="DispatchUnconfirmed",
        cause="The execution ended before it confirmed the dispatch",
        occurred_at=record.receivedAt,
    )
    return try_write(
        lambda: ErrorLog(record.requestId).update(
            actions=[*error_log.facts(failure), *error_log.opening(times.iso(times.now()))],
            condition=CallbackError.requestId.does_not_exist(),
        )
    )
