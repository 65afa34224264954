"""CheckReadiness: fails a deployment that switches a check on without what the check needs."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import urllib3

import cross_check_payment
import inquire_payment
import verify_signature
from callbacks import secrets
from callbacks.errors import ConfigurationError

# AWS may need a moment to know a role everywhere that the same deployment has made.
MAX_PAUSES = 6
PAUSE_SECONDS = 5
ANSWER_SECONDS = 5
MAX_REASON_CHARACTERS = 2000

# Without retries, whose errors show the URL: whoever has it can answer in our place.
http = urllib3.PoolManager(timeout=ANSWER_SECONDS, retries=False)


def handler(event: dict[str, Any], context: object) -> dict[str, str]:
    """Read what the checks will read, and answer CloudFormation: SUCCESS, or FAILED with what is missing.

    Of an update, what changes is read, and only that: the way back must not fail for something else.
    Takes CloudFormation's request for a custom resource with the properties `SignatureMode`, `CrossCheckMode` and
    `InquiryMode`, `SignatureScheme`, `Secret` (its name), and `Orders` and `Payments` (`table` and `key`).
    Returns the answer that it sent. Raises urllib3's HTTPError, or RuntimeError, where the answer does not arrive;
    Lambda then runs the function again.
    """
    before = event.get("OldResourceProperties", {})
    missing = [] if event["RequestType"] == "Delete" else list(_missing(event["ResourceProperties"], before))
    answer = {
        "Status": "FAILED" if missing else "SUCCESS",
        "Reason": "; ".join(missing)[:MAX_REASON_CHARACTERS],
        "PhysicalResourceId": event.get("PhysicalResourceId", event["LogicalResourceId"]),
        **{name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")},
    }
    # The URL is signed for a request without a content type.
    response = http.request("PUT", event["ResponseURL"], body=json.dumps(answer), headers={"Content-Type": ""})
    if response.status != 200:
        raise RuntimeError(f"CloudFormation took the answer with {response.status}.")
    return answer


def _missing(properties: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[str]:
    pauses = iter(range(MAX_PAUSES))
    for names, need, read in _needs(properties):
        if any(properties[name] != before.get(name) for name in names) and (error := _error_of(read, pauses)):
            yield f"{need}: {error}"


def _needs(properties: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str, Callable[[], object]]]:
    """Yield what each check that is on needs: the properties that say so, its name, and what reads it."""
    secret = properties["Secret"]
    if properties["SignatureMode"] != "off":
        yield (
            ("SignatureMode", "SignatureScheme", "Secret"),
            f"VerifySignature, secret {secret}",
            lambda: verify_signature.keys_of(secrets.read(secret, anew=True), properties["SignatureScheme"]),
        )
    if properties["InquiryMode"] != "off":
        yield (
            ("InquiryMode", "Secret"),
            f"InquirePayment, secret {secret}",
            lambda: inquire_payment.bank_of(secrets.read(secret, anew=True)),
        )
    if properties["CrossCheckMode"] != "off":
        for names in ("Orders", "Payments"):
            table, key = properties[names]["table"], properties[names]["key"]
            yield (
                ("CrossCheckMode", names),
                f"CrossCheckPayment, table {table} with key {key}",
                partial(cross_check_payment.read_item, table, key, "deployment", []),
            )


def _error_of(read: Callable[[], object], pauses: Iterator[int]) -> Exception | None:
    while True:
        try:
            read()
        except ConfigurationError as wrong:
            return wrong
        except Exception as failed:  # noqa: BLE001 whatever it is, it would have stopped callbacks
            if next(pauses, None) is None:
                return failed
        else:
            return None
        time.sleep(PAUSE_SECONDS)
