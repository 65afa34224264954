"""What the three reports need to know about a failed execution."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from callbacks import errors, model, times, verdicts
from callbacks.errors import InvalidCallback, InvalidSignature, OperatorDecides, Refusal, Unconfirmed
from callbacks.modes import Mode
from callbacks.queues import Lane
from callbacks.verdicts import PASSED, Verdicts

# The names of the errors that no redrive can cure, of refusals, and of those that anybody can cause.
FOR_OPERATORS = errors.names_of(OperatorDecides)
REFUSALS = errors.names_of(Refusal)
UNCONFIRMED = errors.names_of(Unconfirmed)
# What a callback is refused for before anything shows that it comes from the bank.
REFUSED_AT_ONCE = {InvalidCallback.__name__, InvalidSignature.__name__}

# Function, step and error: failures that agree in these are of one kind.
type Kind = tuple[str, str, str]


# What ClaimFailure adds to a delivery; it counts for one redrive.
ADDED = {"decision", "earlier"}


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed execution.

    `step` is the state that failed, `error` the error's name, `message` its text without the stack trace, and `cause`
    everything Step Functions knows about it. `charge_id` is the callback's paymentId, which error reports call charge.
    `verdicts` are those of the checks, as callbacks.verdicts describes them.
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
    verdicts: Verdicts

    @property
    def kind(self) -> Kind:
        """What the failure has in common with others."""
        return self.function_name, self.step, self.error

    @property
    def needs_operator(self) -> bool:
        """Whether a redrive cannot help."""
        return self.error in FOR_OPERATORS

    @property
    def is_refused_at_once(self) -> bool:
        """Whether nothing shows that the callback comes from the bank: anybody can cause any number of these."""
        return self.error in REFUSED_AT_ONCE

    @property
    def lane(self) -> Lane:
        """The lane of the automatic redrives: what a stranger can cause must not delay anything else."""
        is_signed = self.verdicts.get("VerifySignature") == PASSED
        return Lane.UNCONFIRMED if self.error in UNCONFIRMED and not is_signed else Lane.HEALING

    @classmethod
    def from_event(cls, event: dict[str, Any]) -> Self:
        """Read what ReportFailure passes to each report.

        Takes `event` (the workflow's input) and `report`: `channel`, `functionName`, `failure` (`{state: {"Error": …,
        "Cause": …}}`, as each Catch wrote it), `modes` (of the checks; a check in `warn` may have failed without
        stopping the workflow), `checks` (their verdicts), `occurredAt`, `executionArn`, `executionName` and
        `startedAt`.
        """
        report, delivery = event["report"], event["event"]
        modes = report.get("modes", {})
        ((step, details),) = [caught for caught in report["failure"].items() if modes.get(caught[0]) != Mode.WARN]
        order_id, charge_id = model.find_ids(delivery.get("body") if isinstance(delivery, dict) else None)
        cause = details.get("Cause", "")
        return cls(
            channel=report["channel"],
            function_name=report["functionName"],
            step=step,
            error=details["Error"],
            message=_message(cause),
            cause=cause,
            order_id=order_id,
            charge_id=charge_id,
            occurred_at=times.iso(datetime.fromisoformat(report["occurredAt"])),
            received_at=model.received_at(delivery, report["startedAt"]),
            execution_arn=report["executionArn"],
            request_id=model.request_id(delivery, report["executionName"]),
            event=as_received(delivery),
            verdicts=verdicts.of_failure(report.get("checks", {}), step, details["Error"]),
        )

    def as_event(self) -> dict[str, Any]:
        """Return what `from_event` reads, for a failure that no execution reports."""
        return {
            "report": {
                "channel": self.channel,
                "functionName": self.function_name,
                "failure": {self.step: {"Error": self.error, "Cause": self.cause}},
                "executionArn": self.execution_arn,
                "executionName": self.request_id,
                "startedAt": self.received_at,
                "occurredAt": self.occurred_at,
            },
            "event": self.event,
        }


def as_received(delivery: Any) -> Any:
    """Return a delivery without what ClaimFailure added to it."""
    if not isinstance(delivery, dict):
        return delivery
    return {name: value for name, value in delivery.items() if name not in ADDED}


def _message(cause: str) -> str:
    """Return the message of the exception that Lambda serialized into `cause`, or `cause` if it is something else."""
    try:
        message = json.loads(cause)["errorMessage"]
    except (ValueError, KeyError, TypeError):
        return cause
    return message if isinstance(message, str) else cause
