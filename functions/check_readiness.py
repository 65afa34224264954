"""CheckReadiness: fails a deployment that turns on a check without what the check needs."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import urllib3
from botocore.exceptions import ClientError

from callbacks import bank, bank_secret, config, items, signatures
from callbacks.errors import ConfigurationError

# AWS takes a moment to apply a role that the same deployment created.
MAX_PAUSES = 6
PAUSE_SECONDS = float(config.optional("READINESS_PAUSE_SECONDS") or 5)
ANSWER_SECONDS = 5
MAX_REASON_CHARACTERS = 2000

# No retries: their errors show the URL, and whoever has the URL can answer in our place.
http = urllib3.PoolManager(timeout=urllib3.Timeout(total=ANSWER_SECONDS), retries=False)


class Need(NamedTuple):
    """Something a check reads: the properties that determine it, its name, and how to read it."""

    properties: tuple[str, ...]
    name: str
    read: Callable[[], object]


def handler(event: dict[str, Any], context: object) -> dict[str, str]:
    """Read what the checks will read, and answer CloudFormation: SUCCESS, or FAILED and what is missing.

    An update reads only what it changes, so that a rollback cannot fail for an unrelated reason.
    Takes CloudFormation's request for a custom resource with the properties `SignatureMode`, `CrossCheckMode`,
    `InquiryMode`, `SignatureScheme`, `Secret` and `InquirySecret` (their names), and `Orders` and `Payments` (`table`
    and `key`).
    Returns the answer it sent. Raises urllib3's HTTPError or RuntimeError if the answer does not arrive; Lambda then
    runs the function again.
    """
    before = event.get("OldResourceProperties", {})
    missing = [] if event["RequestType"] == "Delete" else list(_find_missing(event["ResourceProperties"], before))
    answer = {
        "Status": "FAILED" if missing else "SUCCESS",
        "Reason": "; ".join(missing)[:MAX_REASON_CHARACTERS],
        "PhysicalResourceId": event.get("PhysicalResourceId", event["LogicalResourceId"]),
        **{name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")},
    }
    # The URL is signed for a request without a content type.
    response = http.request("PUT", event["ResponseURL"], body=json.dumps(answer), headers={"Content-Type": ""})
    if response.status != 200:
        raise RuntimeError(f"CloudFormation answered {response.status}.")
    return answer


def _find_missing(properties: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[str]:
    pauses = iter(range(MAX_PAUSES))
    for need in _needs(properties):
        is_changed = any(properties[name] != before.get(name) for name in need.properties)
        if is_changed and (error := _try_to_read(need.read, pauses)):
            yield f"{need.name}: {error}"


def _needs(properties: Mapping[str, Any]) -> Iterator[Need]:
    """Yield what the checks that are on need."""
    secret, inquiry_secret = properties["Secret"], properties["InquirySecret"]
    if properties["SignatureMode"] != "off":
        yield Need(
            ("SignatureMode", "SignatureScheme", "Secret"),
            f"VerifySignature, secret {secret}",
            lambda: _require_keys(_read_secret(secret), properties["SignatureScheme"]),
        )
    if properties["InquiryMode"] != "off":
        yield Need(
            ("InquiryMode", "InquirySecret"),
            f"InquirePayment, secret {inquiry_secret}",
            lambda: bank.connect(_read_secret(inquiry_secret)),
        )
    if properties["CrossCheckMode"] != "off":
        for names in ("Orders", "Payments"):
            table, key = properties[names]["table"], properties[names]["key"]
            yield Need(
                ("CrossCheckMode", names),
                f"CrossCheckPayment, table {table} with key {key}",
                partial(items.read, table, key, "deployment", []),
            )


def _read_secret(name: str) -> dict[str, Any]:
    try:
        return bank_secret.read_now(name)
    except ClientError as error:
        # IAM looks at the name first, and a secret that does not exist has none of the random characters that our
        # policies expect at its end.
        if error.response["Error"]["Code"] == "AccessDeniedException":
            raise PermissionError(f"{error}, or the secret does not exist") from error
        raise


def _require_keys(secret: Mapping[str, Any], scheme: str) -> None:
    """Raise ConfigurationError if one key is unusable: a deployment is the time to correct it."""
    if problem := signatures.keys_of(secret, scheme).problem:
        raise ConfigurationError(problem)


def _try_to_read(read: Callable[[], object], pauses: Iterator[int]) -> Exception | None:
    """Return the error of the last attempt, or None once one succeeds; a wrong setting is not tried again."""
    while True:
        try:
            read()
        except ConfigurationError as error:
            return error
        except Exception as error:  # noqa: BLE001 - whatever it is, it would have stopped callbacks
            if next(pauses, None) is None:
                return error
        else:
            return None
        time.sleep(PAUSE_SECONDS)
