"""Genuine callbacks: the bank, its signature, and the account's own order and payment."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import boto3

from tests.outcomes import body_of
from tests.signing import signature_headers
from tests.workflow.account import Workflow, client

KEY = "whsec_" + base64.b64encode(b"the bank's own key").decode()
OTHER_KEY = "whsec_" + base64.b64encode(b"somebody else's").decode()
ORDER = {"orderId": "482500007436", "userId": "b5f392f7-6d89-433c-b24f-bf6a772cab1a", "total": 2339}
RECEIVED_AT = datetime(2026, 11, 22, 10, tzinfo=UTC)


@dataclass
class Bank:
    """The bank's own API."""

    url: str
    status: str = "PAID"
    amount: str = "2339.00"
    http_status: int = 200
    inquiries: int = 0


@contextmanager
def serve_bank() -> Iterator[Bank]:
    class Inquiries(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            token = {"access_token": "t", "expires_in": 0}
            answer = {"status": served.status, "amount": served.amount}
            is_inquiry = self.path.endswith("/inquiry")
            served.inquiries += is_inquiry
            self.send_response(served.http_status)
            self.end_headers()
            self.wfile.write(json.dumps(answer if is_inquiry else token).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Inquiries)
    served = Bank(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


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
