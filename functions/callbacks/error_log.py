"""Writes failures to the error log, each with its delivery, so that it can be explained and redriven."""

import json
from datetime import datetime

from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from callbacks import deliveries, queues, times
from callbacks.failure import Failure
from callbacks.queues import Lane
from callbacks.tables import CallbackError, CallbackRecord, Status, try_update

type ErrorLog = type[CallbackError]

IS_NEW: Condition = CallbackError.status.does_not_exist()
IS_RESOLVED: Condition = CallbackError.status == Status.RESOLVED

# What the item of a refusal has at most when it is opened, as DynamoDB counts it: UTF-8 of names and values.
MAX_REFUSAL_BYTES = 3 * 1024
# Of it, all names, and the values that have always the same length.
FIXED_BYTES = 270
MAX_CAUSE_BYTES = 4096
MAX_REFUSAL_CAUSE_BYTES = 512


def failure_of(  # noqa: PLR0913 each names a part of the failure
    record: CallbackRecord, *, function_name: str, step: str, error: str, cause: str, occurred_at: str
) -> Failure:
    """Return the failure of a recorded delivery that no execution reports."""
    delivery = {
        "body": record.body,
        "requestId": record.requestId,
        "receivedAt": times.milliseconds(record.receivedAt),
        "sourceIp": record.sourceIp,
        "headers": json.loads(record.signatureHeaders or "{}"),
    }
    verdicts = {
        "VerifySignature": record.signature,
        "CrossCheckPayment": record.crossCheck,
        "InquirePayment": record.inquiry,
    }
    return Failure(
        channel=record.channel,
        function_name=function_name,
        step=step,
        error=error,
        message=cause,
        cause=cause,
        order_id=record.orderId,
        charge_id=record.paymentId,
        occurred_at=occurred_at,
        received_at=record.receivedAt,
        execution_arn=record.executionArn,
        request_id=record.requestId,
        event=delivery,
        verdicts={check: verdict for check, verdict in verdicts.items() if verdict is not None},
    )


def open_failure(
    log: ErrorLog, failure: Failure, condition: Condition, due_at: datetime, refusal_days: int | None = None
) -> bool:
    """Write a failure that healing or an operator has to redrive; return False if its item does not meet `condition`.

    A callback that is refused at once expires after `refusal_days`.
    Raises botocore's and PynamoDB's errors, as update_failure does.
    """
    actions = [*facts(failure), *opening(failure, due_at)]
    if failure.is_refused_at_once and refusal_days is not None:
        occurred_at = datetime.fromisoformat(failure.occurred_at)
        actions.append(CallbackError.expiration.set(times.expiration(occurred_at, refusal_days)))
    return try_update(log(failure.request_id), actions, condition)


def update_failure(log: ErrorLog, failure: Failure) -> None:
    """Update what failed, and nothing that decides when the failure is redriven."""
    log(failure.request_id).update(actions=facts(failure))


def facts(failure: Failure) -> list[Action]:
    """Return what updates the item of a failure to what failed last."""
    cause, event = _kept(failure)
    known: list[Action] = [
        CallbackError.functionName.set(failure.function_name),
        CallbackError.occurredAt.set(CallbackError.occurredAt | failure.occurred_at),
        CallbackError.receivedAt.set(failure.received_at),
        CallbackError.channel.set(failure.channel),
        CallbackError.executionArn.set(failure.execution_arn),
        CallbackError.step.set(failure.step),
        CallbackError.error.set(failure.error),
        CallbackError.cause.set(cause),
        # A later failure must not cut what is whole.
        CallbackError.event.set(CallbackError.event | event),
        CallbackError.lane.set(failure.lane),
        CallbackError.verdicts.set(failure.verdicts),
    ]
    if failure.order_id is not None:
        known.append(CallbackError.orderId.set(failure.order_id))
    if failure.charge_id is not None:
        known.append(CallbackError.chargeId.set(failure.charge_id))
    if not failure.is_refused_at_once:
        known.append(CallbackError.expiration.remove())
    return known


def _kept(failure: Failure) -> tuple[str, str]:
    """Return as much of a failure's cause and delivery as its item keeps: little of a refusal, which anybody causes."""
    if not failure.is_refused_at_once:
        return deliveries.cut_to_bytes(failure.cause, MAX_CAUSE_BYTES), json.dumps(failure.event)
    cause = deliveries.cut_to_bytes(failure.message, MAX_REFUSAL_CAUSE_BYTES)
    texts = [
        *(failure.request_id, failure.order_id, failure.charge_id, failure.execution_arn, failure.function_name),
        # It is a part of the queue, too.
        *(failure.channel, failure.channel, failure.step, failure.error, cause),
        *failure.verdicts,
        *failure.verdicts.values(),
    ]
    room = MAX_REFUSAL_BYTES - FIXED_BYTES - sum(len((text or "").encode()) for text in texts)
    return cause, deliveries.as_short_text(failure.event, room)


def waiting(channel: str, request_id: str, lane: str, moment: datetime) -> list[Action]:
    """Return what puts the item of a failure into its queue of a lane, for a time."""
    return [
        CallbackError.queue.set(queues.queue_of(channel, lane, request_id)),
        CallbackError.queuedAt.set(times.iso(moment)),
    ]


def opening(failure: Failure, due_at: datetime, attempts: float = 0) -> list[Action]:
    """Return what opens a failure after so many redrives, to be redriven at `due_at` unless it needs an operator."""
    lane, moment = failure.lane, due_at
    if failure.needs_operator:
        lane, moment = Lane.OPERATOR, datetime.fromisoformat(failure.occurred_at)
    return [
        CallbackError.status.set(Status.OPEN),
        CallbackError.attempts.set(attempts),
        *waiting(failure.channel, failure.request_id, lane, moment),
    ]
