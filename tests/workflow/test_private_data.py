"""What is private stays out of logs, mails and Sentry, whatever path a callback takes."""

import base64
import io
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest

from tests.signing import signature_headers
from tests.sources import CHECKS
from tests.workflow.account import INVOKE, SAVE_ERROR, SAVE_RECORD, SEND_MAIL, Workflow, client

USER = "user-4f1b-private"
AMOUNT = "98765.43210123"
MESSAGE = "paid-by-private-person"
AGENT = "private-agent/1.0"
KEY = base64.b64encode(b"private key of the bank").decode()
MARKERS = [USER, AMOUNT, MESSAGE, AGENT, KEY, "private key of the bank"]
NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)


def delivery(**fields: Any) -> dict[str, Any]:
    """A signed callback that is full of markers; its ids are not private."""
    body = {"orderId": "order-1", "paymentId": "pay-1", "userId": USER, "success": True, "message": MESSAGE} | fields
    text = json.dumps(body).replace("}", f', "amount": {AMOUNT}}}') if "amount" not in fields else json.dumps(body)
    return {
        "body": text,
        "requestId": "8f7e6d5c",
        "receivedAt": int(NOW.timestamp() * 1000),
        "sourceIp": "203.0.113.7",
        "headers": {"user-agent": AGENT, **signature_headers(text, KEY, NOW)},
    }


def put_order(user: str) -> None:
    keys: Any = {"AttributeDefinitions": [{"AttributeName": "orderId", "AttributeType": "S"}]}
    keys["KeySchema"] = [{"AttributeName": "orderId", "KeyType": "HASH"}]
    table = boto3.resource("dynamodb").create_table(TableName="order-table-dev", BillingMode="PAY_PER_REQUEST", **keys)
    table.put_item(Item={"orderId": "order-1", "userId": user, "total": "1"})


def conflict(workflow: Workflow) -> None:
    workflow.run(delivery())
    workflow.run(delivery(userId=f"{USER}-2") | {"requestId": "another"})


def fail(*call: str) -> Callable[[Workflow], None]:
    def play(workflow: Workflow) -> None:
        workflow.wire.refuse(call, "AccessDeniedException")
        workflow.run(delivery())
        workflow.heal()

    return play


def give_up(workflow: Workflow) -> None:
    workflow.wire.refuse(INVOKE, "ServiceException", status=500)
    workflow.run(delivery())
    for _ in range(8):
        workflow.heal()


def misread_the_secret(workflow: Workflow) -> None:
    client("secretsmanager").put_secret_value(SecretId="kbank-test", SecretString=f"{{'{KEY}'")
    workflow.run(delivery())


PATHS: dict[str, Callable[[Workflow], object]] = {
    "paid": lambda workflow: workflow.run(delivery()),
    "declined": lambda workflow: workflow.run(delivery(success=False)),
    "invalid": lambda workflow: workflow.run(delivery(userId=[USER], amount=AMOUNT, success=MESSAGE)),
    "malformed": lambda workflow: workflow.run(delivery() | {"body": delivery()["body"][:-1]}),
    "conflict": conflict,
    "not recorded": fail(*SAVE_RECORD),
    "not dispatched": fail(*INVOKE),
    "not in the error log": fail(*SAVE_ERROR),
    "not mailed": fail(*SEND_MAIL),
    "given up": give_up,
    "another user's order": lambda workflow: (put_order("somebody"), workflow.run(delivery())),
    "another total": lambda workflow: (put_order(USER), workflow.run(delivery())),
    "altered": lambda workflow: workflow.run(delivery() | {"body": delivery()["body"] + " "}),
    "a secret that is not JSON": misread_the_secret,
}


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the tasks write to their log, as they write it."""
    stream = io.StringIO()
    handlers: list[Any] = logging.getLogger("payment3-callback").handlers
    before = [handler.setStream(stream) for handler in handlers]
    yield stream
    for handler, earlier in zip(handlers, before, strict=True):
        handler.setStream(earlier)


@pytest.mark.parametrize("mode", ["off", "warn", "enforce"])
@pytest.mark.parametrize("path", PATHS)
def test_nothing_private_leaves(workflow: Workflow, log: io.StringIO, path: str, mode: str) -> None:
    workflow.functions.imported_by("VerifySignature", "secrets").provider.clear_cache()
    client("secretsmanager").create_secret(Name="kbank-test", SecretString=json.dumps({"webhookSecrets": [KEY]}))
    workflow.deploy(**dict.fromkeys(list(CHECKS.values())[:2], mode))
    PATHS[path](workflow)

    signature = delivery()["headers"]["webhook-signature"].removeprefix("v1,")
    logged = log.getvalue()
    mailed = "".join(f"{mail.subject}{mail.body}" for mail in workflow.mails)
    told = json.dumps(workflow.sentry.events)
    # What is not empty can be looked through.
    assert "order-1" in logged + mailed + told
    for marker in [*MARKERS, signature]:
        assert marker not in logged
        assert marker not in mailed
        assert marker not in told
