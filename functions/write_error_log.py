"""WriteErrorLog: stores a failure with its delivery, so that it can be explained and redriven."""

import json
from datetime import datetime
from typing import Any

from pynamodb.expressions.update import Action

from callbacks import config, redrives
from callbacks.failure import Failure
from callbacks.tables import CallbackError, Status, bind, try_write
from callbacks.transient import translate_transient_errors

# Two writes fit into the function's time; the state retries.
ErrorLog = bind(CallbackError, config.required("ERROR_LOG_TABLE"), read_timeout=0.35)


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Write one item per delivery; a second attempt writes the same item.

    The first failure opens the item: healing will redrive the delivery, unless only an operator can help. A later
    failure only updates what failed; SettleFailure decides what follows.
    Takes what Failure.from_event takes. Returns `reported`: true. Raises ServiceUnavailable.
    """
    failure = Failure.from_event(event)
    item = ErrorLog(failure.request_id)
    with translate_transient_errors():
        is_opened = try_write(
            lambda: item.update(
                actions=[*_facts(failure), *_opening(failure)],
                condition=CallbackError.status.does_not_exist() | (CallbackError.status == Status.RESOLVED),
            )
        )
        if not is_opened:
            item.update(actions=_facts(failure))
    return {"reported": True}


def _facts(failure: Failure) -> list[Action]:
    facts: list[Action] = [
        CallbackError.functionName.set(failure.function_name),
        CallbackError.occurredAt.set(CallbackError.occurredAt | failure.occurred_at),
        CallbackError.receivedAt.set(failure.received_at),
        CallbackError.channel.set(failure.channel),
        CallbackError.executionArn.set(failure.execution_arn),
        CallbackError.step.set(failure.step),
        CallbackError.error.set(failure.error),
        CallbackError.cause.set(failure.cause),
        CallbackError.event.set(json.dumps(failure.event)),
    ]
    if failure.order_id is not None:
        facts.append(CallbackError.orderId.set(failure.order_id))
    if failure.charge_id is not None:
        facts.append(CallbackError.chargeId.set(failure.charge_id))
    return facts


def _opening(failure: Failure) -> list[Action]:
    due = CallbackError.nextAttemptAt
    return [
        CallbackError.status.set(Status.OPEN),
        CallbackError.attempts.set(0),
        due.remove()
        if failure.needs_operator
        else due.set(redrives.due_after(0, datetime.fromisoformat(failure.occurred_at))),
    ]
