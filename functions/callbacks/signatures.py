"""How the bank's callbacks are signed. Pure: no AWS, no environment, no clock.

Two schemes: `standard` is Standard Webhooks 1.0; `plain` is an HMAC-SHA256 of the body in one header, in hex or base64.
"""

import base64
import binascii
import hmac
from collections.abc import Iterator, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple

from callbacks.errors import ConfigurationError, InvalidSignature

TOLERANCE_SECONDS = 5 * 60
MAX_TIMESTAMP_DIGITS = 12

STANDARD, PLAIN = "standard", "plain"
HEX, BASE64 = "hex", "base64"


class Signed(NamedTuple):
    """The signed bytes, and the signatures that came with them; one that matches is enough."""

    content: bytes
    signatures: list[bytes]


class Keys(NamedTuple):
    """The keys that can verify, and what is wrong with the first of the others; it does not show the key."""

    usable: list[bytes]
    problem: str | None


def read_standard(headers: Mapping[str, Any], body: bytes, received_at: datetime) -> Signed:
    """Read a Standard Webhooks delivery; header names are lower case.

    The signing time must be within five minutes of `received_at`, not of now, so that a redrive verifies as well.
    Raises InvalidSignature.
    """
    message_id, signed_at, signatures = (
        _header(headers, name) for name in ("webhook-id", "webhook-timestamp", "webhook-signature")
    )
    if not (signed_at.isascii() and signed_at.isdigit() and len(signed_at) <= MAX_TIMESTAMP_DIGITS):
        raise InvalidSignature("webhook-timestamp: is not a number of seconds")
    if abs(int(signed_at) - received_at.timestamp()) > TOLERANCE_SECONDS:
        raise InvalidSignature("webhook-timestamp: is more than five minutes off")
    known = [text.removeprefix("v1,") for text in signatures.split(" ") if text.startswith("v1,")]
    content = f"{message_id}.{signed_at}.".encode("utf-8", "surrogatepass") + body
    return Signed(content, list(_decode(known, BASE64)))


def read_plain(headers: Mapping[str, Any], body: bytes, header: str, encoding: str) -> Signed:
    """Read a delivery whose body alone is signed, in `header` (lower case). Raises InvalidSignature."""
    return Signed(body, list(_decode([_header(headers, header)], encoding)))


def is_signed(signed: Signed, keys: list[bytes]) -> bool:
    """Return whether one of the keys made one of the signatures; each comparison takes constant time."""
    expected = [hmac.digest(key, signed.content, sha256) for key in keys]
    return any(hmac.compare_digest(digest, given) for digest in expected for given in signed.signatures)


def keys_of(secret: Mapping[str, Any], scheme: str) -> Keys:
    """Return the keys that the bank's secret lists. Raises ConfigurationError if it lists none."""
    texts = secret.get("webhookSecrets")
    if not isinstance(texts, list) or not texts:
        raise ConfigurationError("The secret needs webhookSecrets, a list of keys.")
    usable, problems = [], []
    for number, text in enumerate(texts, 1):
        try:
            usable.append(_key(text, scheme))
        except ValueError as error:
            problems.append(f"Key {number} of webhookSecrets {error}.")
    return Keys(usable, problems[0] if problems else None)


def _key(text: Any, scheme: str) -> bytes:
    """Return the bytes of a key. Raises ValueError with what is wrong, without the key."""
    try:
        key = text.encode() if scheme == PLAIN else base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except AttributeError:
        raise ValueError("is not text") from None
    except ValueError:
        raise ValueError("is not text" if scheme == PLAIN else "is not base64, as Standard Webhooks requires") from None
    if not key:
        raise ValueError("is empty")
    return key


def _header(headers: Mapping[str, Any], name: str) -> str:
    value = headers.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidSignature(f"{name}: is missing")
    return value


def _decode(signatures: list[str], encoding: str) -> Iterator[bytes]:
    """Yield the signatures' bytes; a malformed one is skipped, so it matches nothing."""
    if encoding not in {HEX, BASE64}:
        raise ConfigurationError(f"{encoding} is not a signature encoding; use {HEX} or {BASE64}.")
    for signature in signatures:
        try:
            yield bytes.fromhex(signature) if encoding == HEX else base64.b64decode(signature, validate=True)
        except (ValueError, binascii.Error):
            continue
