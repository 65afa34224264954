"""Shows as JSON under `/_local/` what the stack did: e-mails, Sentry events, calls of process-paid, items, executions.

Also stands in for Sentry, whose envelopes arrive at `/_local/sentry/api/…/envelope/`.
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
    """Reads every number that DynamoDB can hold; boto3's own refuses 1e100, which has over 38 digits written out."""

    def _deserialize_n(self, value: str) -> Decimal:
        return Decimal(value)


@dataclass
class Views:
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
        """The e-mails that SES accepted, oldest first."""
        with urllib.request.urlopen(f"{self.stack.endpoint}/_ministack/ses/messages", timeout=10) as response:
            messages: list[dict[str, Any]] = json.load(response)["messages"].get(ACCOUNT_ID, [])
        return messages

    def sentry(self) -> list[dict[str, Any]]:
        """The events that the Sentry SDK sent, oldest first."""
        return self.sentry_events

    def process_paid(self) -> list[dict[str, Any]]:
        """The calls of process-paid that Lambda accepted, oldest first, each with its payload byte for byte."""
        lines = self.stack.invocations.read_text().splitlines() if self.stack.invocations.exists() else []
        calls: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [call for call in calls if call["function"] == PROCESS_PAID]

    def records(self) -> list[dict[str, Any]]:
        """The items of the record table, oldest first."""
        return self._items("RecordTableName", "receivedAt")

    def ledger(self) -> list[dict[str, Any]]:
        """The payments in the ledger, by order."""
        return self._items("LedgerTableName", "orderKey")

    def errors(self) -> list[dict[str, Any]]:
        """The items of the error log, oldest first."""
        return self._items("ErrorLogTableName", "occurredAt")

    def executions(self) -> list[dict[str, Any]]:
        """The executions of the callback workflow, oldest first, each with its states and its answer."""
        return [self._describe(execution) for execution in self._executions()]

    def order(self, order_id: str) -> dict[str, Any]:
        """What the other views show of one order, by their names."""
        records = [record for record in self.records() if record["orderId"] == order_id]
        errors = [error for error in self.errors() if error.get("orderId") == order_id]
        request_ids = {item["requestId"] for item in records + errors}

        def is_own(name: str) -> bool:
            return name.partition("-redrive-")[0] in request_ids

        return {
            "orderId": order_id,
            "executions": [self._describe(execution) for execution in self._executions() if is_own(execution["name"])],
            "records": records,
            "ledger": [payment for payment in self.ledger() if payment["orderKey"].partition("#")[2] == order_id],
            "process-paid": [
                call for call in self.process_paid() if json.loads(call["payload"]).get("orderId") == order_id
            ],
            "errors": errors,
            "mails": [mail for mail in self.mails() if any(known in mail["BodyText"] for known in request_ids)],
            "sentry": [event for event in self.sentry() if is_own(event["contexts"]["execution"]["requestId"])],
        }

    def _executions(self) -> list[dict[str, Any]]:
        pages = self.stack.client("stepfunctions").get_paginator("list_executions")
        found = pages.paginate(stateMachineArn=self.stack.outputs["StateMachineArn"]).search("executions[]")
        return list(found)[::-1]

    def _describe(self, execution: dict[str, Any]) -> dict[str, Any]:
        stepfunctions = self.stack.client("stepfunctions")
        arn = execution["executionArn"]
        history = stepfunctions.get_execution_history(executionArn=arn, maxResults=1000)["events"]
        entered = [event["stateEnteredEventDetails"] for event in history if "stateEnteredEventDetails" in event]
        output = json.loads(stepfunctions.describe_execution(executionArn=arn).get("output", "null"))
        return {
            "name": execution["name"],
            "status": execution["status"],
            "states": [state["name"] for state in entered],
            "answer": output and {"status": output["statusCode"], "body": json.loads(output["body"])},
        }

    def _items(self, output: str, order: str) -> list[dict[str, Any]]:
        pages = self.stack.client("dynamodb").get_paginator("scan").paginate(TableName=self.stack.outputs[output])
        read = ExactDeserializer().deserialize
        items = [{name: read(value) for name, value in item.items()} for page in pages for item in page["Items"]]
        return sorted(items, key=lambda item: str(item[order]))

    def _answer(self, request: Request) -> Response:
        name = request.path.removeprefix(PREFIX.rstrip("/")).removeprefix("/")
        if name.startswith("sentry/api/") and request.method == "POST":
            event = Envelope.deserialize(request.get_data()).get_event()
            self.sentry_events.append(dict(event or {}))
            return _json({})
        if name.startswith("orders/"):
            return _json(self.order(name.removeprefix("orders/")))
        views = {
            "mails": self.mails,
            "sentry": self.sentry,
            "process-paid": self.process_paid,
            "records": self.records,
            "ledger": self.ledger,
            "errors": self.errors,
            "executions": self.executions,
        }
        if not name:
            return _json([f"{PREFIX}{view}" for view in ("orders/{orderId}", *views)])
        if name not in views:
            raise NotFound
        return _json(views[name]())


def _json(value: Any) -> Response:
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return Response(text + "\n", content_type="application/json; charset=utf-8")
