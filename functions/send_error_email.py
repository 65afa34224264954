"""SendErrorEmail: tells people, through SES, what failed and where to look."""

from html import escape
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from callbacks import alerts, config
from callbacks.failure import Failure
from callbacks.transient import transient_errors_named

if TYPE_CHECKING:
    from mypy_boto3_ses.type_defs import ContentTypeDef

SENDER = config.required("EMAIL_FROM")
RECIPIENTS = config.required("EMAIL_TO").split(",")
ENVIRONMENT = config.required("ENVIRONMENT")

ses = boto3.client("ses", config=Config(connect_timeout=0.5, read_timeout=1.2, retries={"total_max_attempts": 1}))


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Send one mail, as text and as HTML, unless one of the same kind went out within the window.

    Takes what Failure.from_event takes. Returns `reported`: true, and SES's `messageId`, None where the failure was
    only counted; the next mail of its kind says how many were. Raises ServiceUnavailable.
    """
    failure = Failure.from_event(event)
    unmailed = alerts.open_window(failure)
    if unmailed is None:
        return {"reported": True, "messageId": None}
    try:
        message_id = _send(failure, unmailed)
    except Exception:
        alerts.close_window(failure, unmailed)
        raise
    return {"reported": True, "messageId": message_id}


def _send(failure: Failure, unmailed: int) -> str:
    rows = _rows(failure) | ({"Repeated": f"{unmailed} more since the last mail"} if unmailed else {})
    with transient_errors_named():
        response = ses.send_email(
            Source=SENDER,
            Destination={"ToAddresses": RECIPIENTS},
            Message={
                "Subject": _content(f"[{ENVIRONMENT}] {failure.channel} callback failed: {failure.error}"),
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
