"""What a failed execution tells its three reports."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from callbacks import model, times
from callbacks.errors import Refusal

REFUSALS = {refusal.__name__ for refusal in Refusal.__subclasses__()}


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed execution.

    `step` is the state that failed, `error` the error's name, `message` its text without the stack trace, `cause` all
    that Step Functions knows of it. `charge_id` is the callback's paymentId, under the name that error reports use.
    """

    channel: str
    function_name: str
    step: str
    error: str
    message: str
    cause: str
    order_id: str | None
    charge_id: str | None
    occurred_at: str
    received_at: str
    execution_arn: str
    request_id: str
    event: Any

    @property
    def kind(self) -> tuple[str, str, str]:
        """What this failure has in common with its like: function, step and error."""
        return self.function_name, self.step, self.error

    @property
    def is_refusal(self) -> bool:
        """Whether the callback itself is what is wrong."""
        return self.error in REFUSALS

    @classmethod
    def from_event(cls, event: dict[str, Any]) -> Self:
        """Read what ReportFailure passes to each report.

        Takes `channel`, `functionName`, `failure` (`{state: {"Error": …, "Cause": …}}`, as the state's Catch wrote it),
        `event` (the workflow's input), `occurredAt`, `executionArn`, `executionName` and `startedAt`.
        """
        ((step, details),) = event["failure"].items()
        delivery = event["event"]
        order_id, charge_id = model.find_ids(delivery.get("body") if isinstance(delivery, dict) else None)
        cause = details.get("Cause", "")
        return cls(
            channel=event["channel"],
            function_name=event["functionName"],
            step=step,
            error=details["Error"],
            message=_message(cause),
            cause=cause,
            order_id=order_id,
            charge_id=charge_id,
            occurred_at=times.iso(datetime.fromisoformat(event["occurredAt"])),
            received_at=model.received_at(delivery, event["startedAt"]),
            execution_arn=event["executionArn"],
            request_id=model.request_id(delivery, event["executionName"]),
            event=delivery,
        )


def _message(cause: str) -> str:
    """Return the exception's message from the JSON that Lambda makes of it, or the cause where it is something else."""
    try:
        message = json.loads(cause)["errorMessage"]
    except (ValueError, KeyError, TypeError):
        return cause
    return message if isinstance(message, str) else cause
