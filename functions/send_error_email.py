"""SendErrorEmail: tells operators by e-mail what failed and where to look."""

from html import escape
from typing import TYPE_CHECKING, Any

import boto3
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config

from callbacks import alerts, config, deadline
from callbacks.failure import Failure
from callbacks.tables import longest_call
from callbacks.transient import repeat_once, translate_transient_errors

if TYPE_CHECKING:
    from mypy_boto3_ses.type_defs import ContentTypeDef

SENDER = config.required("EMAIL_FROM")
RECIPIENTS = config.required("EMAIL_TO").split(",")
ENVIRONMENT = config.required("ENVIRONMENT")

ses = boto3.client("ses", config=Config(connect_timeout=0.1, read_timeout=0.9, retries={"total_max_attempts": 1}))


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Send one e-mail, as text and HTML, unless the alert window of its kind of failure is open.

    Takes what Failure.from_event takes. Returns `reported`: true, and SES's `messageId`, or None if the failure was
    only counted; the next e-mail of its kind gives the count. An e-mail that SES throttles or fails to take is sent
    again if time is left, and so is one whose answer was lost. Raises ServiceUnavailable.
    """
    failure = Failure.from_event(event)
    suppressed = alerts.open_window(failure)
    if suppressed is None:
        return {"reported": True, "messageId": None}
    try:
        with translate_transient_errors():
            message_id = repeat_once(
                lambda: _send(failure, suppressed),
                context,
                deadline.longest_call(ses) + longest_call(alerts.Alerts),
            )
    except Exception:
        alerts.close_window(failure, suppressed)
        raise
    return {"reported": True, "messageId": message_id}


def _send(failure: Failure, suppressed: int) -> str:
    rows = _rows(failure) | ({"Repeated": f"{suppressed} more since the last e-mail"} if suppressed else {})
    response = ses.send_email(
        Source=SENDER,
        Destination={"ToAddresses": RECIPIENTS},
        Message={
            "Subject": _content(f"[{ENVIRONMENT}] {failure.channel} callback: {failure.error}"),
            "Body": {"Text": _content(_text(rows)), "Html": _content(_html(rows))},
        },
    )
    return response["MessageId"]


def _rows(failure: Failure) -> dict[str, str]:
    return {
        "Function": failure.function_name,
        "Environment": ENVIRONMENT,
        "Step": failure.step,
        "Error": failure.error,
        "Message": failure.message,
        "Order": failure.order_id or "unknown",
        "Charge": failure.charge_id or "unknown",
        "Time": failure.occurred_at,
        "Request": failure.request_id,
        "Execution": failure.execution_arn,
    }


def _text(rows: dict[str, str]) -> str:
    return "".join(f"{name + ':':<13}{value}\n" for name, value in rows.items())


def _html(rows: dict[str, str]) -> str:
    cells = "".join(
        f'<tr><th align="left">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows.items()
    )
    return f"<table>{cells}</table>"


def _content(data: str) -> "ContentTypeDef":
    return {"Data": data, "Charset": "UTF-8"}
