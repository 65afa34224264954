"""VerifySignature: tells the bank's callbacks from anyone else's."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from callbacks import bank_secret, model, signatures
from callbacks.checks import check
from callbacks.errors import ConfigurationError, InvalidSignature
from callbacks.signatures import PLAIN, STANDARD, Signed


@check("VerifySignature")
def handler(event: dict[str, Any], context: LambdaContext) -> None:
    """Verify that one of the bank's keys signed the body, byte for byte as received.

    Takes `delivery`, `executionName` and `startedAt` (as ValidateCallback does), `mode`, `secret` (its name), `scheme`,
    and for the scheme `plain` the `header` and its `encoding`: see callbacks.signatures.
    Returns the verdict of checks.check. Raises InvalidSignature, ServiceUnavailable and ConfigurationError.
    """
    signed = _read(event)
    secret = bank_secret.read(event["secret"], context)
    if signatures.is_signed(signed, signatures.keys_of(secret, event["scheme"])):
        return
    # The bank may have signed with a key that is newer than the remembered secret.
    renewed = bank_secret.renew(event["secret"], context)
    if renewed is None or not signatures.is_signed(signed, signatures.keys_of(renewed, event["scheme"])):
        raise InvalidSignature("signature: does not match")


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
