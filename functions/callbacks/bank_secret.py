"""The bank's secrets in Secrets Manager: its signing keys, and the credentials of its inquiry interface.

One of two JSON objects, or one that is both: `webhookSecrets`, a list of keys that may each have signed (two during a
rotation), and `inquiry` with `baseUrl`, `clientId` and `clientSecret`.
"""

import json
import time
from typing import Any, NamedTuple

from callbacks import clients, deadline
from callbacks.deadline import Context
from callbacks.errors import ConfigurationError, ServiceUnavailable
from callbacks.telemetry import logger
from callbacks.transient import repeat_once, translate_transient_errors

# The longest time for which a removed key is still accepted, and the longest while the secret cannot be read.
MAX_AGE_SECONDS = 300
MAX_OUTAGE_SECONDS = 3600
# The shortest pause between two reads: for new keys, which forged callbacks can cause, or during an outage.
RENEWAL_SECONDS = 30

# No retry: its pause may be a second. A read in an invocation is repeated by `repeat_once`.
client = clients.connect("secretsmanager", read_timeout=0.5)


class Remembered(NamedTuple):
    """A secret, and when it was read, in seconds of time.monotonic."""

    secret: dict[str, Any]
    read_at: float


remembered: dict[str, Remembered] = {}
# When each secret was asked for, successfully or not.
asked_at: dict[str, float] = {}


def read(name: str, context: Context, then: float = 0) -> dict[str, Any]:
    """Return the secret, at most five minutes old.

    After an error that passes, the read is repeated once if time is left for it and for what takes `then` seconds. If
    that fails as well, or the secret is not a JSON object, an earlier one is returned for up to an hour, and logged: a
    metric counts it. Raises ServiceUnavailable, ConfigurationError, and botocore's errors that stay.
    """
    known = remembered.get(name)
    age = time.monotonic() - known.read_at if known else MAX_OUTAGE_SECONDS
    if known and (age < MAX_AGE_SECONDS or (age < MAX_OUTAGE_SECONDS and _was_just_asked(name))):
        return known.secret
    try:
        with translate_transient_errors():
            return repeat_once(lambda: read_now(name), context, deadline.longest_call(client) + then)
    except (ServiceUnavailable, ConfigurationError) as error:
        if known is None or age >= MAX_OUTAGE_SECONDS:
            raise
        logger.warning("Secret unusable", secret=name, problem=type(error).__name__)
        return known.secret
    except Exception:
        # Someone took the secret or the permission away.
        remembered.pop(name, None)
        raise


def renew(name: str, context: Context) -> dict[str, Any] | None:
    """Return the secret as it is now, or None if it was read less than 30 seconds ago.

    So an invocation asks for it either in `read` or here. Raises as `read` does, and ServiceUnavailable if the secret
    could not be read less than 30 seconds ago: what is remembered may be out of date.
    """
    if not _was_just_asked(name):
        with translate_transient_errors():
            return repeat_once(lambda: read_now(name), context, deadline.longest_call(client))
    if name in remembered and remembered[name].read_at == asked_at[name]:
        return None
    raise ServiceUnavailable(f"The secret {name} could not be read again")


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


def _was_just_asked(name: str) -> bool:
    return time.monotonic() - asked_at.get(name, -RENEWAL_SECONDS) < RENEWAL_SECONDS
