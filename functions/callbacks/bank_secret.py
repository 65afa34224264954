"""The bank's secret in Secrets Manager: its signing keys, and the credentials of its inquiry interface.

A JSON object: `webhookSecrets`, a list of keys that may each have signed (two during a rotation), and `inquiry` with
`baseUrl`, `clientId` and `clientSecret`.
"""

import json
import time
from typing import Any, NamedTuple

import boto3
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.config import Config

from callbacks import deadline
from callbacks.errors import ConfigurationError
from callbacks.transient import repeat_once

# The longest time for which a removed key is still accepted.
MAX_AGE_SECONDS = 300
# The shortest pause between a read and another one for new keys, which forged callbacks can cause.
RENEWAL_SECONDS = 30

# No retry: its pause may be a second. A read in an invocation is repeated by `repeat_once`.
client = boto3.client(
    "secretsmanager", config=Config(connect_timeout=0.1, read_timeout=0.5, retries={"total_max_attempts": 1})
)


class Remembered(NamedTuple):
    """A secret, and when it was read, in seconds of time.monotonic."""

    secret: dict[str, Any]
    read_at: float


remembered: dict[str, Remembered] = {}
# When each secret was asked for, successfully or not.
asked_at: dict[str, float] = {}


def read(name: str, context: LambdaContext, then: float = 0) -> dict[str, Any]:
    """Return the secret, at most five minutes old.

    After an error that passes, the read is repeated once if time is left for it and for what takes `then` seconds.
    Raises ConfigurationError if it is not a JSON object, and botocore's errors.
    """
    known = remembered.get(name)
    if known and time.monotonic() - known.read_at < MAX_AGE_SECONDS:
        return known.secret
    return repeat_once(lambda: read_now(name), context, deadline.longest_call(client) + then)


def renew(name: str, context: LambdaContext) -> dict[str, Any] | None:
    """Return the secret as it is now, or None if it was asked for less than 30 seconds ago.

    So an invocation asks for it either in `read` or here. Raises as `read` does.
    """
    if time.monotonic() - asked_at.get(name, -RENEWAL_SECONDS) < RENEWAL_SECONDS:
        return None
    return repeat_once(lambda: read_now(name), context, deadline.longest_call(client))


def read_now(name: str) -> dict[str, Any]:
    """Return the secret as it is now. Raises as `read` does."""
    now = asked_at[name] = time.monotonic()
    answer = client.get_secret_value(SecretId=name)
    try:
        secret = json.loads(answer["SecretString"] if "SecretString" in answer else answer["SecretBinary"])
    except (ValueError, RecursionError):
        # The original message would show the secret.
        raise ConfigurationError(f"The secret {name} is not JSON.") from None
    if not isinstance(secret, dict):
        raise ConfigurationError(f"The secret {name} is not a JSON object.")
    remembered[name] = Remembered(secret, now)
    return secret
