"""Healing drains what an outage has left, each payment once."""

import json
import time
import uuid
from collections import Counter

import pytest
from boto3.dynamodb.types import TypeSerializer

from callbacks import times
from callbacks.queues import Lane, queue_of
from tests.e2e.conftest import Body, Local, MakeBody

COUNT = 2000


def failure(body: str, request_id: str) -> Body:
    """Return the item of a delivery that could not be recorded, as WriteErrorLog writes it."""
    now = times.iso(times.now())
    delivery = {"body": body, "requestId": request_id, "receivedAt": times.milliseconds(now), "headers": {}}
    return {
        "requestId": request_id,
        "functionName": "bankappcallback",
        "occurredAt": now,
        "receivedAt": now,
        "channel": "BankApp",
        "executionArn": "arn:of:the-failed-execution",
        "step": "SaveCallbackRecord",
        "error": "ServiceUnavailable",
        "cause": "The outage",
        "orderId": json.loads(body)["orderId"],
        "event": json.dumps(delivery),
        "status": "open",
        "attempts": 0,
        "lane": Lane.HEALING,
        "queue": queue_of("BankApp", Lane.HEALING, request_id),
        "queuedAt": now,
    }


@pytest.mark.exhaustive
def test_the_failures_of_an_outage_are_drained(local: Local, make_body: MakeBody, order_id: str) -> None:
    bodies = [make_body(orderId=f"{order_id}-{number}", paymentId=f"pay-{number}") for number in range(COUNT)]
    dynamodb, serialize = local.stack.client("dynamodb"), TypeSerializer().serialize
    table = local.stack.outputs["ErrorLogTableName"]
    for body in bodies:
        item = failure(body, uuid.uuid4().hex[:15])
        dynamodb.put_item(TableName=table, Item={name: serialize(value) for name, value in item.items()})

    stepfunctions = local.stack.client("stepfunctions")
    machine = local.stack.outputs["HealingStateMachineArn"]
    started = time.monotonic()
    paces: list[int] = []
    while any(
        error["status"] != "resolved"
        for error in local.server.views.errors()
        if str(error.get("orderId")).startswith(order_id)
    ):
        run = stepfunctions.start_execution(stateMachineArn=machine, input="{}")["executionArn"]
        while (execution := stepfunctions.describe_execution(executionArn=run))["status"] == "RUNNING":
            time.sleep(0.2)
        assert execution["status"] == "SUCCEEDED"
        paces.append(json.loads(execution["output"])["found"]["concurrency"])
    seconds = time.monotonic() - started

    assert Counter(local.payloads_of(order_id)) == Counter(bodies)
    print(f"\n{COUNT} failures in {seconds:.0f} s, {COUNT / seconds:.1f} a second; up to {max(paces)} at once")
