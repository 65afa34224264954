"""The bank's secret in Secrets Manager: its signing keys, and the credentials of its inquiry interface.

A JSON object: `webhookSecrets`, a list of keys that may each have signed (two during a rotation), and `inquiry` with
`baseUrl`, `clientId` and `clientSecret`.
"""

import time
from typing import Any

from aws_lambda_powertools.utilities.parameters import SecretsProvider
from aws_lambda_powertools.utilities.parameters.exceptions import TransformParameterError
from botocore.config import Config

from callbacks.errors import ConfigurationError

# The longest time for which a removed key is still accepted.
MAX_AGE_SECONDS = 300
# The shortest pause between two requests for new keys that forged callbacks can cause.
RENEWAL_SECONDS = 30

provider = SecretsProvider(boto_config=Config(connect_timeout=0.4, read_timeout=0.5, retries={"total_max_attempts": 1}))
_renewed_at: dict[str, float] = {}


def read(name: str, *, refresh: bool = False) -> dict[str, Any]:
    """Return the secret, at most five minutes old; with `refresh`, as it is now.

    Raises ConfigurationError if it is not a JSON object, and botocore's errors as GetParameterError.
    """
    try:
        secret = provider.get(name, max_age=MAX_AGE_SECONDS, transform="json", force_fetch=refresh)
    except (TransformParameterError, UnicodeDecodeError):
        # The original message would show the secret.
        raise ConfigurationError(f"The secret {name} is not JSON.") from None
    if not isinstance(secret, dict):
        raise ConfigurationError(f"The secret {name} is not a JSON object.")
    return secret


def renew(name: str) -> dict[str, Any] | None:
    """Return the secret as it is now, or None if it was renewed less than 30 seconds ago."""
    now = time.monotonic()
    if now - _renewed_at.get(name, -RENEWAL_SECONDS) < RENEWAL_SECONDS:
        return None
    _renewed_at[name] = now
    return read(name, refresh=True)
