"""SendErrorEmail: tells operators by e-mail what failed and where to look."""

from typing import Any

from callbacks import alerts, deadline, emails
from callbacks.deadline import Context
from callbacks.failure import Failure
from callbacks.shown import show
from callbacks.tables import longest_call
from callbacks.transient import repeat_once, translate_transient_errors


def handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Send one e-mail, unless the alert window of its kind of failure is open.

    Takes what Failure.from_event takes. Returns `reported`: true, and SES's `messageId`, or None if the failure was
    only counted; ReportSuppressed sends the count. An e-mail that SES throttles or fails to take is sent again if time
    is left, and so is one whose answer was lost. Raises ServiceUnavailable.
    """
    failure = Failure.from_event(event)
    if not alerts.open_window(failure):
        return {"reported": True, "messageId": None}
    try:
        with translate_transient_errors():
            message_id = repeat_once(
                lambda: _send(failure),
                context,
                deadline.longest_call(emails.ses) + longest_call(alerts.Alerts),
            )
    except Exception:
        alerts.close_window(failure)
        raise
    return {"reported": True, "messageId": message_id}


def _send(failure: Failure) -> str:
    rows = _rows(failure)
    return emails.send(
        f"{failure.channel} callback: {failure.error}",
        emails.text_of([(f"{name}:", value) for name, value in rows]),
        emails.html_of(rows),
    )


def _rows(failure: Failure) -> list[tuple[str, str]]:
    return [
        ("Function", failure.function_name),
        ("Environment", emails.ENVIRONMENT),
        ("Step", failure.step),
        ("Error", failure.error),
        ("Message", failure.message),
        ("Order", show(failure.order_id)),
        ("Charge", show(failure.charge_id)),
        ("Time", failure.occurred_at),
        ("Request", show(failure.request_id)),
        ("Execution", failure.execution_arn),
    ]
