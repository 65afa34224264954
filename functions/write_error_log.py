"""WriteErrorLog: stores a failure with its delivery, so that it can be explained and redriven."""

from typing import Any

from callbacks import config, error_log, redrives
from callbacks.deadline import Context
from callbacks.failure import Failure
from callbacks.tables import CallbackError, bind, longest_call
from callbacks.transient import repeat_once, translate_transient_errors

REFUSAL_RETENTION_DAYS = int(config.required("REFUSAL_RETENTION_DAYS"))

# Two writes fit into the function's time, even if the first of them failed fast before.
ErrorLog = bind(CallbackError, config.required("ERROR_LOG_TABLE"), read_timeout=0.3)


def handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Write one item per delivery; a second attempt writes the same item.

    The first failure opens the item: healing will redrive the delivery, unless only an operator can help. A later
    failure only updates what failed; SettleFailure decides what follows.
    Takes what Failure.from_event takes. Returns `reported`: true. Raises ServiceUnavailable.
    """
    failure = Failure.from_event(event)
    due_at = redrives.first_due_at(failure.occurred_at)
    condition = error_log.IS_NEW | error_log.IS_RESOLVED
    update_seconds = longest_call(ErrorLog)
    with translate_transient_errors():
        is_opened = repeat_once(
            lambda: error_log.open_failure(ErrorLog, failure, condition, due_at, REFUSAL_RETENTION_DAYS),
            context,
            2 * update_seconds,
        )
        if not is_opened:
            repeat_once(lambda: error_log.update_failure(ErrorLog, failure), context, update_seconds)
    return {"reported": True}
