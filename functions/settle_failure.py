"""SettleFailure: stores the outcome of a redrive, and whether another one follows."""

import json
import re
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pynamodb.expressions.update import Action

from callbacks import config, error_log, pace, queues, redrives, times
from callbacks.failure import FOR_OPERATORS, REFUSALS
from callbacks.queues import Lane
from callbacks.tables import CallbackError, Status, bind, try_write
from callbacks.telemetry import logger
from callbacks.transient import translate_transient_errors

SUCCEEDED = "SUCCEEDED"
# In ASCII, so that a page of results has a known size.
MAX_RESULT_CHARACTERS = 66

RETENTION_DAYS = int(config.required("RECORD_RETENTION_DAYS"))

ErrorLog = bind(CallbackError, config.required("ERROR_LOG_TABLE"), retries=1)

# An error of StartSyncExecution itself that any delivery would get. Step Functions does not document the names that it
# gives to them: an error that is not in the API's model may be just Sfn.SfnException, and its cause the service's
# message, without a name.
NOT_STARTED = re.compile(
    "Throttl|TooManyRequests|LimitExceeded|Rate exceeded|AccessDenied|not authorized|StateMachineDoesNotExist"
    "|StateMachineDeleting|Kms"
)
RESTART_DELAY = timedelta(minutes=1)


class Result(NamedTuple):
    """How an execution ended: its HTTP status (None without an answer), and whether nothing is left to do."""

    status_code: int | None
    is_done: bool
    text: str
    is_started: bool = True


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Store the result, and where the failure waits from now on, unless it is resolved.

    Takes `requestId`, `attempt`, `lane` (in which it was redriven), `isManual` (whether an operator asked for the
    redrive) and `run`: the execution (`Status`, and `Output` as text if it has one), the error that prevented it
    (`Error`), the `reason` why there will be none, or a `dismissal`, which resolves the failure.
    An attempt that was not started does not count and is made again a minute later, unless an operator decided it.
    Returns `requestId`, `status` (the one stored, or `not started`, or `unconfirmed` for a failure that stays open in
    that lane), `attempts`, `lastResult`, and `report`: the error to report to operators, or None.
    Raises ServiceUnavailable.
    """
    result = _read(event["run"])
    with translate_transient_errors():
        row = ErrorLog.get(event["requestId"], consistent_read=True)
    # Without the operator's decision, the next attempt would be another one.
    is_counted = result.is_started or row.is_decided(event["attempt"])
    if not is_counted:
        actions = [CallbackError.attempts.add(-1), *_waiting(row, Status.OPEN, row.lane, times.now() + RESTART_DELAY)]
    else:
        actions = _settled(row, event, result)
    with translate_transient_errors():
        # Skipped if a later run took over: its result is newer, and it reports it.
        is_stored = try_write(
            lambda: row.update(
                actions=[CallbackError.lastResult.set(result.text), *actions],
                condition=CallbackError.attempts == event["attempt"],
            )
        )
    logger.info("Failure settled", requestId=row.requestId, orderId=row.orderId, status=row.status)
    return {
        "requestId": row.requestId,
        "status": _shown(row, is_counted=is_counted),
        "attempts": row.attempts,
        "lastResult": row.lastResult,
        "report": _report(row, event["lane"], is_manual=event["isManual"]) if is_stored else None,
    }


def _shown(row: CallbackError, *, is_counted: bool) -> str:
    if not is_counted:
        return pace.NOT_STARTED
    return pace.UNCONFIRMED if queues.lane_of(row.queue) == Lane.UNCONFIRMED else row.status


def _report(row: CallbackError, lane: str, *, is_manual: bool) -> str | None:
    """Return the error to report: the failure is given up, or refused although its callback was accepted before.

    The callback workflow reports such a refusal like that of a callback which anybody can send. What anybody can cause
    is a kind of its own, and suppresses no other report. The item has the lane of the last failure, which may be
    another one than that in which it was redriven.
    """
    # An operator sees the outcome of the redrive that they asked for.
    is_refused = not is_manual and queues.lane_of(row.queue) == Lane.OPERATOR and row.error in REFUSALS
    if row.status != Status.GIVEN_UP and not is_refused:
        return None
    return "UnconfirmedGivenUp" if lane == Lane.UNCONFIRMED else "GivenUp"


def _settled(row: CallbackError, event: dict[str, Any], result: Result) -> list[Action]:
    if result.is_done:
        return [
            CallbackError.status.set(Status.RESOLVED),
            CallbackError.queue.remove(),
            CallbackError.queuedAt.remove(),
            *_expiring(row, is_dismissed="dismissal" in event["run"]),
        ]
    # The row has this redrive's error only if it was answered, and with something other than 200.
    is_refused = result.status_code not in {None, 200} and row.error in FOR_OPERATORS
    is_given_up = "reason" in event["run"]
    # WriteErrorLog has decided whether a refusal expires. What has no such outcome may be the only trace of a payment.
    staying = [] if is_refused else [CallbackError.expiration.remove()]
    # A decision counts for one redrive: if that fails, the operator decides again.
    if is_refused or (not is_given_up and row.is_decided(event["attempt"])):
        waiting = _waiting(row, Status.OPEN, Lane.OPERATOR, datetime.fromisoformat(row.occurredAt))
    elif is_given_up or redrives.is_last(event["attempt"], row.lane):
        waiting = _waiting(row, Status.GIVEN_UP, Lane.GIVEN_UP, datetime.fromisoformat(row.occurredAt))
    else:
        waiting = _waiting(row, Status.OPEN, row.lane, redrives.due_after(event["attempt"], times.now()))
    return [*waiting, *staying]


def _expiring(row: CallbackError, *, is_dismissed: bool) -> list[Action]:
    """Return what lets a resolved failure expire, like a record."""
    if is_dismissed and row.expiration:
        # It expires as the refusal that it is.
        return []
    expiration = CallbackError.expiration
    return [expiration.set(times.expiration(times.now(), RETENTION_DAYS)) if RETENTION_DAYS else expiration.remove()]


def _waiting(row: CallbackError, status: Status, lane: str, moment: datetime) -> list[Action]:
    return [CallbackError.status.set(status), *error_log.waiting(row.channel, row.requestId, lane, moment)]


def _read(run: dict[str, Any]) -> Result:
    if "dismissal" in run:
        return Result(None, is_done=True, text=run["dismissal"])
    if run.get("Status") != SUCCEEDED or not run.get("Output"):
        text = run.get("Status") or run.get("Error") or run["reason"]
        # An execution that failed has its own error and cause beside its status.
        is_started = "Status" in run or not NOT_STARTED.search(f"{run.get('Error')} {run.get('Cause')}")
        return Result(None, is_done=False, text=text, is_started=is_started)
    answer = json.loads(run["Output"])
    body = json.loads(answer["body"])
    text = f"{answer['statusCode']} {body.get('error', body['message'])}".encode("ascii", "replace").decode()
    return Result(answer["statusCode"], answer["isDone"], text[:MAX_RESULT_CHARACTERS])
