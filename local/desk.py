"""What there is to look at locally: mails, Sentry events, calls of process-paid, records, errors and executions.

Everything is JSON under `/_local/`. Sentry's envelopes are taken at `/_local/sentry/api/…/envelope/`.
"""

import json
import urllib.request
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from boto3.dynamodb.types import TypeDeserializer
from sentry_sdk.envelope import Envelope
from werkzeug import Request, Response
from werkzeug.exceptions import NotFound

from local.stack import ACCOUNT_ID, BRANCH, Stack

PREFIX = "/_local/"
PROCESS_PAID = f"payment3-process-paid-wallet-order-internal-{BRANCH}"


class ExactDeserializer(TypeDeserializer):
    """Reads any number that DynamoDB holds; boto3's own refuses 1e100, which has more than 38 digits written out."""

    def _deserialize_n(self, value: str) -> Decimal:
        return Decimal(value)


@dataclass
class Desk:
    """A WSGI application that shows what the stack did, and stands in for Sentry."""

    stack: Stack
    sentry_events: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, environ: Any, start_response: Any) -> Any:
        request = Request(environ)
        try:
            response: Any = self._answer(request)
        except NotFound as error:
            response = error
        return response(environ, start_response)

    def mails(self) -> list[dict[str, Any]]:
        """The mails that SES took, oldest first."""
        with urllib.request.urlopen(f"{self.stack.endpoint}/_ministack/ses/messages", timeout=10) as response:
            messages: list[dict[str, Any]] = json.load(response)["messages"].get(ACCOUNT_ID, [])
        return messages

    def sentry(self) -> list[dict[str, Any]]:
        """The Sentry events that were sent, oldest first."""
        return self.sentry_events

    def process_paid(self) -> list[dict[str, Any]]:
        """The calls of the process-paid function, oldest first, each with its payload as it came."""
        lines = self.stack.invocations.read_text().splitlines() if self.stack.invocations.exists() else []
        calls: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [call for call in calls if call["function"] == PROCESS_PAID]

    def records(self) -> list[dict[str, Any]]:
        """The items of the record table."""
        return self._items("RecordTableName", "receivedAt")

    def errors(self) -> list[dict[str, Any]]:
        """The items of the error log."""
        return self._items("ErrorLogTableName", "occurredAt")

    def executions(self) -> list[dict[str, Any]]:
        """The executions, oldest first, each with the states it entered and its answer."""
        stepfunctions = self.stack.client("stepfunctions")
        pages = stepfunctions.get_paginator("list_executions").paginate(
            stateMachineArn=self.stack.outputs["StateMachineArn"]
        )
        executions = [execution for page in pages for execution in page["executions"]]
        return [
            {
                "name": execution["name"],
                "status": execution["status"],
                "states": self.states(execution["executionArn"]),
                "output": stepfunctions.describe_execution(executionArn=execution["executionArn"]).get("output"),
            }
            for execution in reversed(executions)
        ]

    def states(self, execution_arn: str) -> list[str]:
        """The names of the states that an execution entered, in order."""
        history = self.stack.client("stepfunctions").get_execution_history(executionArn=execution_arn, maxResults=1000)
        details = (event.get("stateEnteredEventDetails") for event in history["events"])
        return [entered["name"] for entered in details if entered]

    def _items(self, output: str, order: str) -> list[dict[str, Any]]:
        pages = self.stack.client("dynamodb").get_paginator("scan").paginate(TableName=self.stack.outputs[output])
        read = ExactDeserializer().deserialize
        items = [{name: read(value) for name, value in item.items()} for page in pages for item in page["Items"]]
        return sorted(items, key=lambda item: str(item[order]))

    def _answer(self, request: Request) -> Response:
        name = request.path.removeprefix(PREFIX.rstrip("/")).strip("/")
        if name.startswith("sentry/api/") and request.method == "POST":
            event = Envelope.deserialize(request.get_data()).get_event()
            self.sentry_events.append(dict(event or {}))
            return _json({})
        views = {
            "mails": self.mails,
            "sentry": self.sentry,
            "process-paid": self.process_paid,
            "records": self.records,
            "errors": self.errors,
            "executions": self.executions,
        }
        if not name:
            return _json([f"{PREFIX}{view}" for view in views])
        if name not in views:
            raise NotFound
        return _json(views[name]())


def _json(value: Any) -> Response:
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return Response(text + "\n", content_type="application/json; charset=utf-8")
