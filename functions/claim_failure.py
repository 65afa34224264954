"""ClaimFailure: claims a failed delivery, so that no other healing run redrives it at the same time."""

import json
from datetime import timedelta
from typing import Any

from pynamodb.expressions.update import Action as UpdateAction

from callbacks import config, decisions, deliveries, error_log, queues, redrives, request_ids, times, verdicts
from callbacks.decisions import Action
from callbacks.failure import as_received
from callbacks.tables import CallbackError, Status, bind, try_write
from callbacks.transient import translate_transient_errors

# Longer than any redrive takes, so an expired claim belongs to a run that died.
CLAIM_TIME = timedelta(minutes=5)
# An item must not expire while its redrive has no outcome: if the redrive dies, nothing else may keep the delivery.
MIN_DAYS_LEFT = 14
MAX_EXCERPT_CHARACTERS = 4096
# Of what was refused at once and is large, and of what the API cut. It can only be dismissed.
BODY_NOT_KEPT = "body not kept"

ErrorLog = bind(CallbackError, config.required("ERROR_LOG_TABLE"), retries=1)


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Claim the failure for five minutes, and return what its redrive needs.

    Takes `requestId`, `isManual` (an operator may claim a failure that is not due or was given up) and `decision` (the
    operator's, or None; with it they may claim a resolved failure as well, and it is kept on the failure).
    Returns `plan` (`redrive`, `give up`, `dismiss` or `skip`) and `status`, or why it is not redriven; unless the plan
    is `skip`, also `attempt` (the number of this redrive, or of the latest if this is none), `lane`, `reason` (not to
    redrive, or None), `input` (the callback workflow's input, as text) and `executionName`.
    Raises ServiceUnavailable.
    """
    decision: dict[str, str] | None = event.get("decision")
    with translate_transient_errors():
        row = ErrorLog.get(event["requestId"], consistent_read=True)
        delivery = _delivery(row, decision)
        plan, reason = _plan(row, delivery, decision)
        if reason == BODY_NOT_KEPT and queues.lane_of(row.queue) not in queues.AUTOMATIC:
            return {"plan": "skip", "status": BODY_NOT_KEPT}
        is_claimable = _is_claimable(row, event["isManual"], decision)
        if not is_claimable or not _claim(row, row.attempts if reason else row.attempts + 1, decision):
            return {"plan": "skip", "status": row.status}
    return {
        "plan": plan,
        "status": row.status,
        "attempt": row.attempts,
        "lane": row.lane,
        "reason": reason,
        "input": deliveries.as_text(_excerpt(delivery) if reason else delivery),
        "executionName": request_ids.execution_name(row.requestId, row.attempts),
    }


def _plan(row: CallbackError, delivery: Any, decision: dict[str, str] | None) -> tuple[str, str | None]:
    """Return what to do with the failure, and the reason unless that is a redrive."""
    if decision is not None and decision["action"] == Action.DISMISS:
        return "dismiss", f"dismissed by {decision['by']}"
    if deliveries.is_cut(delivery):
        return "give up", BODY_NOT_KEPT
    if redrives.is_too_large(delivery):
        return "give up", "The delivery is too large to redrive"
    # An ordinary redrive would find the payment dispatched, and hide that the decision may not be carried out.
    is_last = redrives.is_last(row.attempts, row.lane) or row.is_decided(row.attempts)
    if row.status == Status.REDRIVEN and is_last and decision is None:
        return "give up", "The last attempt left no result"
    return "redrive", None


def _excerpt(delivery: Any) -> Any:
    """Return as much of a delivery as a report needs to name the order."""
    body = delivery.get("body") if isinstance(delivery, dict) else None
    return {**delivery, "headers": {}, "body": str(body)[:MAX_EXCERPT_CHARACTERS]} if body else None


def _is_claimable(row: CallbackError, is_manual: bool, decision: dict[str, str] | None) -> bool:
    is_due = queues.lane_of(row.queue) in queues.AUTOMATIC and row.queuedAt <= times.iso(times.now())
    if decision is not None:
        is_new = decision["id"] not in {earlier.id for earlier in row.decisions or []}
        return is_new and (is_due or row.status != Status.REDRIVEN)
    return is_due or (is_manual and row.status in {Status.OPEN, Status.GIVEN_UP})


def _claim(row: CallbackError, attempt: float, decision: dict[str, str] | None) -> bool:
    """Claim the failure and keep the decision; return False if another run was faster."""
    kept = CallbackError.decisions
    now = times.now()
    queued_at = CallbackError.queuedAt
    is_queued_as_read = queued_at == row.queuedAt if row.queuedAt else queued_at.does_not_exist()
    new = [] if decision is None else [{**decision, "at": times.iso(now), "attempt": attempt}]
    return try_write(
        lambda: row.update(
            actions=[
                CallbackError.status.set(Status.REDRIVEN),
                CallbackError.attempts.set(attempt),
                # If this run dies, the schedule finds the failure there.
                *error_log.waiting(row.channel, row.requestId, row.lane, now + CLAIM_TIME),
                *([kept.set((kept | []).append(new))] if new else []),
                *_staying(row),
            ],
            condition=(CallbackError.attempts == row.attempts)
            & (CallbackError.status == row.status)
            & is_queued_as_read,
        )
    )


def _staying(row: CallbackError) -> list[UpdateAction]:
    """Return what keeps the item until the redrive has an outcome."""
    expiration = CallbackError.expiration
    if row.status == Status.RESOLVED:
        return [expiration.remove()]
    least = times.expiration(times.now(), MIN_DAYS_LEFT)
    return [expiration.set(least)] if row.expiration and row.expiration < least else []


def _delivery(row: CallbackError, decision: dict[str, str] | None) -> Any:
    """Return the delivery as received, with the request id and time that its record's key is made of.

    What an earlier claim added counts for its redrive only.
    """
    delivery = as_received(json.loads(row.event))
    if not isinstance(delivery, dict):
        return delivery
    is_despite = decision is not None and decision["action"] == Action.DESPITE
    added = {
        "decision": decisions.permit(decision),
        "earlier": verdicts.earlier(row.verdicts.as_dict(), is_despite=is_despite) if row.verdicts else None,
    }
    new = {name: value for name, value in added.items() if value is not None}
    return {**delivery, "requestId": row.requestId, "receivedAt": times.milliseconds(row.receivedAt), **new}
