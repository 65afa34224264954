"""VerifySignature: tells the callbacks of the bank from those of anybody else."""

import base64
import binascii
import hmac
from collections.abc import Iterable, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple

from callbacks import checks, model, secrets
from callbacks.errors import ConfigurationError, InvalidSignature
from callbacks.transient import transient_errors_named

TOLERANCE_SECONDS = 5 * 60
MAX_TIMESTAMP_DIGITS = 12

STANDARD, PLAIN = "standard", "plain"
HEX, BASE64 = "hex", "base64"


class Signed(NamedTuple):
    """What was signed, and the signatures that came with it: any of them may be the right one."""

    content: bytes
    signatures: list[bytes]


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Verify that one of the bank's keys signed the body, over its bytes as they were received.

    Takes `delivery`, `executionName` and `startedAt` (as ValidateCallback does), `mode`, `secret` (its name), `scheme`
    (`standard`: Standard Webhooks 1.0, or `plain`: HMAC-SHA256 of the body), and for `plain` the `header` and its
    `encoding`, `hex` or `base64`. The time of a signature is compared with the time of receipt, not with now, so that a
    callback can be run again later.
    Returns the verdict of checks.carry_out.
    Raises InvalidSignature, ServiceUnavailable and ConfigurationError, each of them in `enforce` only.
    """
    delivery = event["delivery"] if isinstance(event["delivery"], dict) else {}

    def verify() -> None:
        signed = _read(delivery, event)
        with transient_errors_named():
            _match(signed, event["scheme"], event["secret"])

    request_id = model.request_id(delivery, event["executionName"])
    return checks.carry_out("VerifySignature", event["mode"], verify, requestId=request_id)


def _read(delivery: Mapping[str, Any], event: Mapping[str, Any]) -> Signed:
    try:
        body = delivery["body"].encode()
    except (KeyError, AttributeError, UnicodeEncodeError):
        raise InvalidSignature("body: is not the text that was signed") from None
    headers = delivery.get("headers")
    headers = headers if isinstance(headers, dict) else {}
    if event["scheme"] == STANDARD:
        received_at = datetime.fromisoformat(model.received_at(delivery, event["startedAt"]))
        return _read_standard(headers, body, received_at)
    if event["scheme"] == PLAIN:
        return _read_plain(headers, body, event["header"].lower(), event["encoding"])
    raise ConfigurationError(f"{event['scheme']} is not a signature scheme; there are {STANDARD} and {PLAIN}.")


def _read_standard(headers: Mapping[str, Any], body: bytes, received_at: datetime) -> Signed:
    message_id, signed_at, signatures = (
        _header(headers, name) for name in ("webhook-id", "webhook-timestamp", "webhook-signature")
    )
    if not (signed_at.isascii() and signed_at.isdigit() and len(signed_at) <= MAX_TIMESTAMP_DIGITS):
        raise InvalidSignature("webhook-timestamp: is not a number of seconds")
    if abs(int(signed_at) - received_at.timestamp()) > TOLERANCE_SECONDS:
        raise InvalidSignature("webhook-timestamp: is more than five minutes off")
    known = [text.removeprefix("v1,") for text in signatures.split(" ") if text.startswith("v1,")]
    return Signed(f"{message_id}.{signed_at}.".encode("utf-8", "surrogatepass") + body, list(_decoded(known, BASE64)))


def _read_plain(headers: Mapping[str, Any], body: bytes, header: str, encoding: str) -> Signed:
    return Signed(body, list(_decoded([_header(headers, header)], encoding)))


def _header(headers: Mapping[str, Any], name: str) -> str:
    value = headers.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidSignature(f"{name}: is missing")
    return value


def _decoded(signatures: Iterable[str], encoding: str) -> Iterable[bytes]:
    """Yield the signatures' bytes; what is none of the encoding is left out, and so matches nothing."""
    if encoding not in {HEX, BASE64}:
        raise ConfigurationError(f"{encoding} is not an encoding of signatures; there are {HEX} and {BASE64}.")
    for signature in signatures:
        try:
            yield bytes.fromhex(signature) if encoding == HEX else base64.b64decode(signature, validate=True)
        except (ValueError, binascii.Error):
            continue


def _match(signed: Signed, scheme: str, secret: str) -> None:
    if _is_signed(signed, keys_of(secrets.read(secret), scheme)):
        return
    # Perhaps with a key that is newer than what we remember.
    renewed = secrets.renewed(secret)
    if renewed is None or not _is_signed(signed, keys_of(renewed, scheme)):
        raise InvalidSignature("signature: does not match")


def _is_signed(signed: Signed, keys: list[bytes]) -> bool:
    expected = [hmac.digest(key, signed.content, sha256) for key in keys]
    return any(hmac.compare_digest(digest, given) for digest in expected for given in signed.signatures)


def keys_of(secret: Mapping[str, Any], scheme: str) -> list[bytes]:
    """Return the keys that a secret lists. Raises ConfigurationError; its message does not show them."""
    texts = secret.get("webhookSecrets")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise ConfigurationError("The secret has no webhookSecrets, which is a list of keys.")
    if scheme == PLAIN:
        return [text.encode() for text in texts]
    try:
        keys = [base64.b64decode(text.removeprefix("whsec_"), validate=True) for text in texts]
    except ValueError:
        raise ConfigurationError("A key of webhookSecrets is not base64, as Standard Webhooks has it.") from None
    if not all(keys):
        raise ConfigurationError("A key of webhookSecrets is empty.")
    return keys
