"""WriteErrorLog: stores a failure with its delivery, so that it can be explained and redriven."""

from datetime import datetime
from typing import Any

from callbacks import config, error_log, redrives
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
    due_at = redrives.due_after(0, datetime.fromisoformat(failure.occurred_at))
    with translate_transient_errors():
        is_opened = try_write(
            lambda: item.update(
                actions=[*error_log.facts(failure), *error_log.opening(failure, due_at)],
                condition=CallbackError.status.does_not_exist() | (CallbackError.status == Status.RESOLVED),
            )
        )
        if not is_opened:
            item.update(actions=error_log.facts(failure))
    return {"reported": True}
