"""ReportToSentry: tells Sentry what failed, before the function returns."""

from typing import Any

from callbacks import sentry, windows
from callbacks.failure import Failure
from callbacks.shown import show
from callbacks.telemetry import logger
from callbacks.windows import Windows

# Not the windows of the e-mails: neither report may silence the other, and a client of DynamoDB would lengthen this
# task's import by two thirds. Sentry groups the few events that several containers send.
remembered = Windows()


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Send the failure to Sentry, unless this container has sent one of its kind within the alert window.

    Takes what Failure.from_event takes. Returns `reported`: true, and the `eventId`, or None if none was sent;
    without a DSN `reported` is false, with a `reason`. Raises ServiceUnavailable and SentryRefusal.
    """
    failure = Failure.from_event(event)
    if not sentry.dsn:
        logger.warning("Sentry is off: SENTRY_DSN is not set", executionArn=failure.execution_arn)
        return {"reported": False, "reason": "SENTRY_DSN is not set"}
    if remembered.find(failure.kind):
        return {"reported": True, "eventId": None}
    event_id = sentry.send(
        failure.kind,
        failure.message,
        tags={"orderId": show(failure.order_id), "chargeId": show(failure.charge_id)},
        contexts={"execution": {"arn": failure.execution_arn, "requestId": show(failure.request_id)}},
    )
    remembered.remember(failure.kind, windows.begin(failure.request_id))
    return {"reported": True, "eventId": event_id}
