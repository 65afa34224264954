"""FindFailures: reads from the error log which deliveries to redrive, and decides how many at once."""

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import takewhile
from math import ceil
from typing import Any

from pynamodb.expressions.condition import Condition

from callbacks import config, deadline, errors, pace, queues, times
from callbacks.deadline import Context
from callbacks.errors import InvalidSelection, Refusal
from callbacks.queues import Lane
from callbacks.selection import Selection
from callbacks.tables import CallbackError, Status, bind, find, longest_call, read_while
from callbacks.telemetry import logger
from callbacks.transient import translate_transient_errors

ErrorLog = bind(CallbackError, config.required("ERROR_LOG_TABLE"), retries=1)
# A run looks for more failures until shortly before the schedule starts the next one.
RUN_TIME = timedelta(minutes=int(config.required("HEALING_MINUTES"))) - timedelta(seconds=30)

# A run that redrives so many, and heals none, has a reason that concerns all of them; so has one that cannot start any.
HOPELESS = 2
# Entries of the index that one query reads; the filter applies afterwards.
WALK_PAGE = 1000

IS_REFUSED: Condition = CallbackError.error.is_in(*sorted(errors.names_of(Refusal)))

type Row = CallbackError
type Json = dict[str, Any]
type HasTime = Callable[[], bool]

BEFORE_FIRST_PAGE: Json = {"concurrency": 0, "tally": {"redriven": 0, "failed": 0}}


def handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Return a page of the failures that the selection names, or none if the run is over; fewer if the time ends.

    Takes `channel`, `selection` (the healing workflow's input), `startedAt` (of the run, ISO 8601) and `state`, what
    the run's states have left: `collected`, if CollectUndispatched succeeded, with its `requestIds`; and after the
    first page `found`, what this function returned for the previous one, and `results`, the `status` of each redrive.
    Returns `failures`, each with its `requestId`, for an operator and in a dry run also with what the index has, and
    with its `cause` if the operator decides on it; `isManual`; `decision`, the operator's, or None; `next`, where an
    operator's next page starts, or None; `concurrency`, how many to redrive at once; `tally`, how many have been
    `redriven` so far and how many of them have `failed`; and `isHopeless`, whether that is all of them.
    Raises InvalidSelection and ServiceUnavailable.
    """
    selection = Selection.from_event(event["selection"])
    state = event["state"]
    previous = state.get("found", BEFORE_FIRST_PAGE)
    statuses = [result["status"] for result in state.get("results", [])]
    concurrency = pace.next_concurrency(previous["concurrency"], statuses)
    redriven, failed = pace.tally(statuses)
    tally = {"redriven": previous["tally"]["redriven"] + redriven, "failed": previous["tally"]["failed"] + failed}
    is_listed = selection.is_manual or event["selection"].get("dryRun", False)
    is_over = bool(previous["concurrency"]) and _is_over(event["startedAt"])
    size = selection.limit if is_listed else 0 if is_over else pace.page_size(concurrency)
    following = None

    def has_time() -> bool:
        return deadline.seconds_left(context) >= longest_call(ErrorLog)

    with translate_transient_errors():
        if selection.is_manual:
            rows, following = _read_page(event["channel"], selection, has_time)
        else:
            rows = _due(event["channel"], size, has_time) if size else []
    # By their ids, because a failure may move to another queue while all are read.
    failures: dict[str, Json] = {
        row.requestId: _summary(row) if is_listed else {"requestId": row.requestId} for row in rows
    }
    # The index may not have the collected ones yet, and in a dry run they are not in the error log. Those for which the
    # page has no room are due, like any failure.
    collected = state.get("collected", {}).get("requestIds", [])
    unlisted = [request_id for request_id in collected if request_id not in failures]
    room = len(unlisted) if is_listed else max(0, size - len(failures))
    failures |= {request_id: {"requestId": request_id} for request_id in unlisted[:room]}
    if selection.decision:
        causes = {row.requestId: row.cause for row in rows}
        failures = {request_id: failures[request_id] | {"cause": causes.get(request_id)} for request_id in failures}
    if not failures and not is_listed:
        logger.info("Healing run ended", **tally)
    return {
        "failures": list(failures.values()),
        "isManual": selection.is_manual,
        "decision": selection.decision,
        # For an operator, redrive.py continues from `next` in another execution.
        "next": following,
        "concurrency": concurrency,
        "tally": tally,
        "isHopeless": tally["redriven"] == tally["failed"] >= (1 if pace.NOT_STARTED in statuses else HOPELESS),
    }


def _is_over(started_at: str) -> bool:
    return times.now() >= datetime.fromisoformat(started_at) + RUN_TIME


def _due(channel: str, size: int, has_time: HasTime) -> list[Row]:
    """Return due failures: a few that anybody may have caused, some of the newest, and else the oldest."""
    newest, unconfirmed = pace.shares(size)
    # Of the unconfirmed, the newest are the likeliest to have their order by now; a flood leaves no time for all.
    rows = _pick(channel, Lane.UNCONFIRMED, unconfirmed, has_time, is_newest_first=True)
    # If no newest one is due, none is, so that a run that finds nothing asks each queue once.
    if picked := _pick(channel, Lane.HEALING, newest, has_time, is_newest_first=True):
        rows += picked
        rows += _pick(channel, Lane.HEALING, max(1, size - len(rows)), has_time, is_newest_first=False)
    return list({row.requestId: row for row in rows}.values())


def _pick(channel: str, lane: Lane, number: int, has_time: HasTime, *, is_newest_first: bool) -> list[Row]:
    """Return at most so many due failures of a lane, from all of its queues."""
    is_due = CallbackError.queuedAt <= times.iso(times.now())
    page = {"limit": ceil(number / queues.SHARDS), "scan_index_forward": not is_newest_first}
    rows = [
        row
        for queue in takewhile(lambda _: has_time(), queues.queues_of(channel, lane))
        for row in ErrorLog.unresolved.query(queue, is_due, **page)
    ]
    return sorted(rows, key=lambda row: str(row.queuedAt), reverse=is_newest_first)[:number]


def _read_page(channel: str, selection: Selection, has_time: HasTime) -> tuple[list[Row], Any]:
    """Return the failures that an operator asked for, due or not, and where the next page starts."""
    if selection.request_id:
        row = find(ErrorLog, selection.request_id)
        # A decision may concern a payment that counts as dispatched.
        if row is None or (row.status == Status.RESOLVED and selection.decision is None):
            return [], None
        return [row], None
    if selection.order_id:
        is_unresolved = CallbackError.status != Status.RESOLVED
        page = {"limit": selection.limit, "last_evaluated_key": selection.after}
        # A filter may leave nothing of a page, so the failures may be on many pages.
        rows = read_while(has_time, ErrorLog.byOrder.query(selection.order_id, None, is_unresolved, **page))
        return list(rows), rows.last_evaluated_key
    return _walk([queue for lane in Lane for queue in queues.queues_of(channel, lane)], selection, has_time)


def _walk(all_queues: list[str], selection: Selection, has_time: HasTime) -> tuple[list[Row], Any]:
    """Return a page of the failures since a time, queue by queue, and where the next page starts."""
    after = selection.after or {"queue": all_queues[0], "key": None}
    if after.get("queue") not in all_queues or "key" not in after:
        raise InvalidSelection("after: must be the `next` of the previous page")
    is_selected = CallbackError.occurredAt >= selection.since
    if not selection.is_refused_included:
        is_selected &= ~IS_REFUSED
    found: list[Row] = []
    key = after["key"]
    for queue in all_queues[all_queues.index(after["queue"]) :]:
        left = selection.limit - len(found)
        if not left or not has_time():
            return found, {"queue": queue, "key": key}
        page = {"limit": left, "page_size": WALK_PAGE, "last_evaluated_key": key}
        rows = read_while(has_time, ErrorLog.unresolved.query(queue, None, is_selected, **page))
        found.extend(rows)
        key = rows.last_evaluated_key
        if key:
            return found, {"queue": queue, "key": key}
    return found, None


def _summary(row: Row) -> dict[str, Any]:
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
