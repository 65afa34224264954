"""VerifySignature: tells the bank's callbacks from anyone else's."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from callbacks import bank_secret, model, signatures
from callbacks.checks import check
from callbacks.deadline import Context
from callbacks.errors import ConfigurationError, InvalidSignature
from callbacks.signatures import PLAIN, STANDARD, Keys, Signed
from callbacks.telemetry import logger

# The secrets with an unusable key that have been logged, by name.
reported: dict[str, dict[str, Any]] = {}


@check("VerifySignature")
def handler(event: dict[str, Any], context: Context) -> None:
    """Verify that one of the bank's keys signed the body, byte for byte as received.

    Takes `delivery`, `executionName` and `startedAt` (as ValidateCallback does), `mode`, `secret` (its name), `scheme`,
    and for the scheme `plain` the `header` and its `encoding`: see callbacks.signatures.
    Returns the verdict of checks.check. Raises InvalidSignature, ServiceUnavailable and ConfigurationError: as long as
    the secret cannot be read again, or has an unusable key, an unknown signature is not refused for good.
    """
    signed = _read(event)
    keys = _keys_of(bank_secret.read(event["secret"], context), event)
    if signatures.is_signed(signed, keys.usable):
        return
    # The bank may have signed with a key that is newer than the remembered secret.
    renewed = bank_secret.renew(event["secret"], context)
    if renewed is not None:
        keys = _keys_of(renewed, event)
        if signatures.is_signed(signed, keys.usable):
            return
    if keys.problem:
        # The bank may have signed with the key that was meant.
        raise ConfigurationError(keys.problem)
    raise InvalidSignature("signature: does not match")


def _keys_of(secret: dict[str, Any], event: Mapping[str, Any]) -> Keys:
    """Return the secret's keys; one that is unusable is logged once for each read of the secret: a metric counts it."""
    keys = signatures.keys_of(secret, event["scheme"])
    if keys.problem and reported.get(event["secret"]) is not secret:
        reported[event["secret"]] = secret
        logger.warning("Secret unusable", secret=event["secret"], problem=keys.problem)
    return keys


def _read(event: Mapping[str, Any]) -> Signed:
    delivery = event["delivery"] if isinstance(event["delivery"], dict) else {}
    if problem := model.find_size_problem(delivery.get("body"), delivery.get("bodyLength")):
        raise InvalidSignature(problem)
    try:
        body = delivery["body"].encode()
    except (KeyError, AttributeError, UnicodeEncodeError):
        raise InvalidSignature("body: is not the text that was signed") from None
    headers = delivery.get("headers")
    headers = headers if isinstance(headers, dict) else {}
    match event["scheme"]:
        case signatures.STANDARD:
            received_at = datetime.fromisoformat(model.received_at(delivery, event["startedAt"]))
            return signatures.read_standard(headers, body, received_at)
        case signatures.PLAIN:
            return signatures.read_plain(headers, body, event["header"].lower(), event["encoding"])
    raise ConfigurationError(f"{event['scheme']} is not a signature scheme; use {STANDARD} or {PLAIN}.")
