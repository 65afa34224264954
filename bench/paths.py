"""The paths through both designs that are measured, and what the state machines do on each."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from local.stack import ROOT

OURS, BASELINE = "ours", "baseline"
BASELINE_FUNCTION = "BankAppCallback"

SMALL, MEDIUM, LARGE = 190, 2_000, 8_000
# A body above the contract's limit, which anybody can send.
FORGED = 32_000
# Each path and the sizes of its body in bytes; `idle` is a run of healing that finds nothing.
PATHS: dict[str, tuple[int, ...]] = {
    "paid": (SMALL, MEDIUM, LARGE),
    "duplicate": (SMALL,),
    "declined": (SMALL,),
    "refused": (SMALL, MEDIUM, LARGE, FORGED),
    "malformed": (SMALL, MEDIUM, LARGE),
    "failing": (SMALL,),
    "idle": (0,),
}
# Texts of fixed length in every payload; each callback replaces them by its own.
ORDER_ID, PAYMENT_ID = "482500000000", "pay_000000000000"
REQUEST_IDS = ("JKJaXmP000000000=", "JKJbXmP000000000=")


def body_of_path(path: str, size: int) -> list[str]:
    """Return the bodies that are delivered one after another on a path; the last one is measured."""
    callback: dict[str, Any] = {
        "orderId": ORDER_ID,
        "paymentId": PAYMENT_ID,
        "success": path != "declined",
        "amount": 2339.0,
        "userId": "b5f392f7-6d89-433c-b24f-bf6a772cab1a",
        "message": "Payment successful",
    }
    if path == "refused":
        del callback["userId"]
    text = _padded(callback, size)
    if path == "malformed":
        # A bracket is missing at the end.
        text = f"{text[:-1]} "
    return [text, text] if path == "duplicate" else [text]


def _padded(callback: dict[str, Any], size: int) -> str:
    """Return a callback as JSON of exactly this size: a small one gets a longer message, a large one notes."""
    missing = size - len(json.dumps(callback))
    if missing > 200:
        callback["notes"] = ""
        callback["notes"] = "n" * (size - len(json.dumps(callback)))
    else:
        callback["message"] += "!" * missing
    return json.dumps(callback)


def proxy_event(body: str, request_id: str) -> str:
    """Return the event of API Gateway's proxy integration, which the page's Lambda receives."""
    headers = {
        "Accept": "*/*",
        "Content-Type": "application/json",
        "Host": "abcdefghij.execute-api.ap-southeast-1.amazonaws.com",
        "User-Agent": "BankGateway/2.1",
        "X-Amzn-Trace-Id": "Root=1-67891233-abcdef012345678912345678",
        "X-Forwarded-For": "203.0.113.7",
        "X-Forwarded-Port": "443",
        "X-Forwarded-Proto": "https",
    }
    event = {
        "resource": "/bankapp/callback",
        "path": "/bankapp/callback",
        "httpMethod": "POST",
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {
            "resourceId": "abc123",
            "resourcePath": "/bankapp/callback",
            "httpMethod": "POST",
            "extendedRequestId": request_id,
            "requestTime": "25/Nov/2026:10:00:00 +0000",
            "path": "/dev/bankapp/callback",
            "accountId": "123456789012",
            "protocol": "HTTP/1.1",
            "stage": "dev",
            "domainPrefix": "abcdefghij",
            "requestTimeEpoch": 1795341600123,
            "requestId": "8f7e6d5c-0000-4000-8000-000000000000",
            "identity": {"sourceIp": "203.0.113.7", "userAgent": "BankGateway/2.1", "cognitoIdentityId": None},
            "domainName": "abcdefghij.execute-api.ap-southeast-1.amazonaws.com",
            "apiId": "abcdefghij",
        },
        "body": body,
        "isBase64Encoded": False,
    }
    return json.dumps(event)


def numbered(payload: str, number: int) -> str:
    """Return a payload as that of another callback, of the same length."""
    for text in (ORDER_ID, PAYMENT_ID, *(request_id.rstrip("=") for request_id in REQUEST_IDS)):
        digits = 9
        payload = payload.replace(text, f"{text[:-digits]}{number:0{digits}}")
    return payload


@cache
def recorded() -> dict[tuple[str, int], dict[str, Any]]:
    """Return what each path does in the real state machines, by path and size, as bench/record_paths.py writes it."""
    with TemporaryDirectory(prefix="payment3-bench-") as folder:
        file = Path(folder, "paths.json")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.workflow.conftest", "-p", "no:cacheprovider"]
        run = subprocess.run(
            [*command, "-p", "no:randomly", "bench/record_paths.py"],
            cwd=ROOT,
            env=os.environ | {"BENCH_PATHS_FILE": str(file)},
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise RuntimeError(f"The paths could not be recorded:\n{run.stdout[-3000:]}{run.stderr[-2000:]}")
        found = json.loads(file.read_text())
    return {(each["path"], each["size"]): each for each in found}
