"""Structured logs. They contain order and payment ids, never user ids, bodies, headers or secrets."""

from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter

from callbacks.shown import show

# What a caller chooses, or may choose: an execution that is started by hand has its own request id.
IDS = ("orderId", "paymentId", "requestId")


class _Formatter(LambdaPowertoolsFormatter):
    """Shows ids as callbacks.shown does."""

    def serialize(self, log: Any) -> str:
        return super().serialize({name: show(log[name]) if name in IDS and log[name] else log[name] for name in log})


# Lambda adds a time of its own to a line whose time has another format. A line is found by its message.
logger = Logger(service="payment3-callback", logger_formatter=_Formatter(use_rfc3339=True), location=None)
