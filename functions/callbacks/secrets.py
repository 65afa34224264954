"""The bank's secret in Secrets Manager: with which keys it signs, and how it is asked about a payment.

A JSON object: `webhookSecrets`, a list of keys of which any may have signed (two while rotating), and `inquiry` with
`baseUrl`, `clientId` and `clientSecret`.
"""

import time
from typing import Any

from aws_lambda_powertools.utilities.parameters import SecretsProvider
from aws_lambda_powertools.utilities.parameters.exceptions import TransformParameterError
from botocore.config import Config

from callbacks.errors import ConfigurationError

# How long a key that was taken out is still accepted, at the most.
MAX_AGE_SECONDS = 300
# How often forged callbacks can make us ask for new keys, at the most.
RENEWAL_SECONDS = 30

provider = SecretsProvider(boto_config=Config(connect_timeout=0.4, read_timeout=0.5, retries={"total_max_attempts": 1}))
_renewed_at: dict[str, float] = {}


def read(name: str, *, anew: bool = False) -> dict[str, Any]:
    """Return the secret, at most five minutes old, or `anew` as it is now.

    Raises ConfigurationError where it is not a JSON object, and what botocore raises as GetParameterError.
    """
    try:
        secret = provider.get(name, max_age=MAX_AGE_SECONDS, transform="json", force_fetch=anew)
    except (TransformParameterError, UnicodeDecodeError):
        # Its message would show the secret.
        raise ConfigurationError(f"The secret {name} is not JSON.") from None
    if not isinstance(secret, dict):
        raise ConfigurationError(f"The secret {name} is not a JSON object.")
    return secret


def renewed(name: str) -> dict[str, Any] | None:
    """Return the secret as it is now, or None where that was asked a moment ago."""
    now = time.monotonic()
    if now - _renewed_at.get(name, -RENEWAL_SECONDS) < RENEWAL_SECONDS:
        return None
    _renewed_at[name] = now
    return read(name, anew=True)
