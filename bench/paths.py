"""The paths through both designs that are measured, and what the state machines do on each."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
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
# A run of healing that finds nothing.
IDLE = "idle"
# A failure within the alert window that another one has opened: it is counted, not reported.
COUNTED = "failing, counted"
# The record table refuses these.
FAILING = ("failing", COUNTED)
# Each path and the sizes of its body in bytes.
PATHS: dict[str, tuple[int, ...]] = {
    "paid": (SMALL, MEDIUM, LARGE),
    "duplicate": (SMALL,),
    "declined": (SMALL,),
    "refused": (SMALL, MEDIUM, LARGE, FORGED),
    "malformed": (SMALL, MEDIUM, LARGE),
    "failing": (SMALL,),
    COUNTED: (SMALL,),
    IDLE: (0,),
}
# Texts of fixed length in every payload; each callback replaces them by its own.
ORDER_ID, PAYMENT_ID = "482500000000", "pay_000000000000"
REQUEST_IDS = ("JKJaXmP000000000=", "JKJbXmP000000000=")
# How the kind of a call ends that reads consistently, which takes twice as many read units.
CONSISTENT = " (consistent)"
# It is a part of a failure's kind.
FUNCTION_NAME = "bankappcallback"
DIGITS = 9


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
    return [text, text] if path in ("duplicate", COUNTED) else [text]


def designs_of(path: str) -> tuple[str, ...]:
    """Return the designs that have a path: the one Lambda has no healing."""
    return (OURS,) if path == IDLE else (OURS, BASELINE)


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
    """Return the event of API Gateway's proxy integration, which the one Lambda receives."""
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
        payload = _with_number(payload, text, number)
    return payload


def of_kind(payload: str, number: int) -> str:
    """Return the payload of a report as that of another kind of failure, of the same length."""
    return _with_number(payload, FUNCTION_NAME, number)


def _with_number(payload: str, text: str, number: int) -> str:
    return payload.replace(text, f"{text[:-DIGITS]}{number:0{DIGITS}}")


def case_of(results: Mapping[str, Any], path: str, size: int) -> dict[str, Any]:
    """Return what a path logs, from the results of `log`."""
    found: list[dict[str, Any]] = results["log"]["cases"]
    return next(case for case in found if (case["path"], case["size"]) == (path, size))


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
