"""Genuine callbacks: the bank's signature, and the account's own order and payment."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import boto3

from tests.outcomes import body_of
from tests.signing import signature_headers
from tests.workflow.account import Workflow, client

KEY = "whsec_" + base64.b64encode(b"the bank's own key").decode()
OTHER_KEY = "whsec_" + base64.b64encode(b"somebody else's").decode()
ORDER = {"orderId": "482500007436", "userId": "b5f392f7-6d89-433c-b24f-bf6a772cab1a", "total": 2339}
RECEIVED_AT = datetime(2026, 11, 22, 10, tzinfo=UTC)


def delivery(key: str | None = KEY, signed_at: datetime = RECEIVED_AT, name: str = "paid") -> dict[str, Any]:
    """Return the input that the API builds from a callback, signed with a key or unsigned."""
    body = body_of(name)
    headers = {"content-type": "application/json", "user-agent": "BankGateway/2.1"}
    if key:
        headers |= signature_headers(body, key, signed_at)
    received_at = int(RECEIVED_AT.timestamp() * 1000)
    return {"body": body, "requestId": "8f7e6d5c", "receivedAt": received_at, "headers": headers}


def forget_secrets(workflow: Workflow) -> None:
    """Empty the tasks' caches, which hold the secret of the test before."""
    for state in ("VerifySignature", "InquirePayment"):
        secrets = workflow.functions.module_global(state, "bank_secret")
        secrets.remembered.clear()
        secrets.asked_at.clear()


def put_secret(inquiry: dict[str, str] | None = None) -> None:
    secret = {"webhookSecrets": [KEY], "inquiry": inquiry}
    client("secretsmanager").create_secret(Name="kbank-test", SecretString=json.dumps(secret))


def rotate_key(workflow: Workflow, key: str) -> None:
    """Replace the bank's key, and let the tasks' caches expire."""
    client("secretsmanager").put_secret_value(SecretId="kbank-test", SecretString=json.dumps({"webhookSecrets": [key]}))
    forget_secrets(workflow)


def create_tables() -> None:
    """Create the tables that the account has beside the stack."""
    for table, key in (("order-table-dev", "orderId"), ("payment3-card-payment-record-master", "paymentId")):
        client("dynamodb").create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
            KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
        )


def put_order(**changes: Any) -> None:
    order: dict[str, Any] = ORDER | changes
    boto3.resource("dynamodb").Table("order-table-dev").put_item(Item=order)


def put_payment(**fields: Any) -> None:
    payments = boto3.resource("dynamodb").Table("payment3-card-payment-record-master")
    payments.put_item(Item={"paymentId": "pay_bankapp_123", **fields})
