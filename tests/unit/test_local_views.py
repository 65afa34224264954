"""The views under `/_local/`, of tables as DynamoDB has them and of executions that the tests play."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from werkzeug.test import Client

from local.views import PROCESS_PAID, Views
from tests.unit.kit import Json

# Put a record with these attributes, as DynamoDB writes them.
PutRecord = Callable[..., None]


@dataclass
class StepFunctions:
    """Stands in for boto3's client: executions by name, newest first, and the histories that were read."""

    names: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)

    def get_paginator(self, _: str) -> Any:
        executions = [{"name": name, "executionArn": name, "status": "SUCCEEDED"} for name in self.names]
        return SimpleNamespace(paginate=lambda **_: SimpleNamespace(search=lambda _: iter(executions)))

    def get_execution_history(self, executionArn: str, **_: int) -> Json:  # noqa: N803 boto3's
        self.read.append(executionArn)
        return {"events": [{}, {"stateEnteredEventDetails": {"name": f"Respond to {executionArn}"}}]}

    def describe_execution(self, executionArn: str) -> Json:  # noqa: N803 boto3's
        if executionArn.endswith("lost"):
            return {}
        return {"output": json.dumps({"statusCode": 200, "body": json.dumps({"success": True})})}


@pytest.fixture
def stepfunctions() -> StepFunctions:
    return StepFunctions()


@pytest.fixture
def views(
    tables: dict[str, str], stepfunctions: StepFunctions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Views:
    outputs = {
        "RecordTableName": tables["WalletCallbackRecordTable"],
        "ErrorLogTableName": tables["CallbackErrorLogTable"],
        "LedgerTableName": tables["PaymentLedgerTable"],
        "StateMachineArn": "arn:of:the-callback-workflow",
    }
    clients: Json = {"stepfunctions": stepfunctions}
    stack: Any = SimpleNamespace(
        client=lambda service: clients.get(service) or boto3.client(service),
        outputs=outputs,
        invocations=tmp_path / "invocations.jsonl",
    )
    views = Views(stack)
    monkeypatch.setattr(views, "mails", lambda: [{"BodyText": f"request id {name}"} for name in ("own", "another")])
    return views


@pytest.fixture
def put_record(views: Views) -> PutRecord:
    def put(**attributes: Any) -> None:
        keys = {name: {"S": "1"} for name in ("orderId", "deliveryId", "receivedAt", "requestId")}
        boto3.client("dynamodb").put_item(TableName=views.stack.outputs["RecordTableName"], Item={**keys, **attributes})

    return put


def get(views: Views, name: str) -> Any:
    response = Client(views).get(f"/_local/{name}")
    assert (response.status_code, response.mimetype) == (200, "application/json")
    return response.json


@pytest.mark.parametrize(
    "number",
    [
        pytest.param("1" + "0" * 100, id="1e100 written out"),
        pytest.param("1E+100", id="1e100"),
        pytest.param("9" * 38 + "0" * 88, id="the largest"),
        pytest.param("-" + "9" * 38 + "0" * 88, id="the least"),
        pytest.param("0." + "0" * 129 + "1", id="the smallest"),
        pytest.param("1" * 38, id="38 digits"),
        pytest.param("1.50", id="1.50"),
    ],
)
def test_every_number_that_dynamodb_can_hold_is_shown_exactly(views: Views, put_record: PutRecord, number: str) -> None:
    put_record(amount={"N": number}, extra={"M": {"fees": {"L": [{"N": number}]}}})
    (record,) = get(views, "records")
    assert Decimal(record["amount"]) == Decimal(record["extra"]["fees"][0]) == Decimal(number)


def test_the_index_lists_every_view(views: Views) -> None:
    index = get(views, "")
    assert index == [
        "/_local/orders/{orderId}",
        "/_local/mails",
        "/_local/sentry",
        "/_local/process-paid",
        "/_local/records",
        "/_local/ledger",
        "/_local/errors",
        "/_local/executions",
    ]
    assert [len(get(views, name.removeprefix("/_local/"))) for name in index[1:]] == [2, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("name", ["nothing", "orders", "records/1"])
def test_an_unknown_view_is_not_found(views: Views, name: str) -> None:
    assert Client(views).get(f"/_local/{name}").status_code == 404


def test_an_order_is_shown_with_what_is_its_own_and_nothing_else(
    views: Views, put_record: PutRecord, stepfunctions: StepFunctions
) -> None:
    order_id = "ก/1 %"
    put_record(orderId={"S": order_id}, requestId={"S": "own"})
    put_record(orderId={"S": "another"}, requestId={"S": "another"})
    failed = {"requestId": {"S": "lost"}, "orderId": {"S": order_id}, "occurredAt": {"S": "2026"}}
    unknown = {"requestId": {"S": "other"}, "occurredAt": {"S": "2026"}}
    for item in (failed, unknown):
        boto3.client("dynamodb").put_item(TableName=views.stack.outputs["ErrorLogTableName"], Item=item)
    for order in (order_id, "another"):
        payment = {"orderKey": {"S": f"BankApp#{order}"}, "paymentId": {"S": "1"}}
        boto3.client("dynamodb").put_item(TableName=views.stack.outputs["LedgerTableName"], Item=payment)
    stepfunctions.names = ["own-redrive-1", "another", "lost", "own", "other"]
    payloads = [f'{{"orderId": "{order_id}"}}', '{"orderId": "another"}', "{}"]
    calls = [{"function": PROCESS_PAID, "payload": payload} for payload in payloads]
    views.stack.invocations.write_text("".join(json.dumps(call) + "\n" for call in calls))
    views.sentry_events.extend({"contexts": {"execution": {"requestId": name}}} for name in ("own", "another"))

    shown = get(views, "orders/%E0%B8%81%2F1%20%25")

    assert shown["orderId"] == order_id
    answer = {"status": 200, "body": {"success": True}}
    assert shown["executions"] == [
        {"name": name, "status": "SUCCEEDED", "states": [f"Respond to {name}"], "answer": answered}
        for name, answered in (("own", answer), ("lost", None), ("own-redrive-1", answer))
    ]
    assert stepfunctions.read == ["own", "lost", "own-redrive-1"]
    assert [record["requestId"] for record in shown["records"]] == ["own"]
    assert shown["ledger"] == [{"orderKey": f"BankApp#{order_id}", "paymentId": "1"}]
    assert shown["process-paid"] == calls[:1]
    assert [error["requestId"] for error in shown["errors"]] == ["lost"]
    assert shown["mails"] == [{"BodyText": "request id own"}]
    assert shown["sentry"] == [{"contexts": {"execution": {"requestId": "own"}}}]


def test_an_unknown_order_is_shown_without_anything(views: Views, stepfunctions: StepFunctions) -> None:
    stepfunctions.names = ["another"]
    shown = get(views, "orders/1")
    assert shown == {
        "orderId": "1",
        "executions": [],
        "records": [],
        "ledger": [],
        "process-paid": [],
        "errors": [],
        "mails": [],
        "sentry": [],
    }
    assert stepfunctions.read == []
