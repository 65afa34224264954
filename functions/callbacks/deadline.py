"""The time that a function has left: a call that could not end in it is not started."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from callbacks.errors import ServiceUnavailable

# What a function itself does around a call: it signs the request and reads the answer.
OWN_SECONDS = 0.02


def seconds_left(context: LambdaContext) -> float:
    """Return the seconds until Lambda ends the function."""
    return context.get_remaining_time_in_millis() / 1000


def require(context: LambdaContext, seconds: float) -> None:
    """Raise ServiceUnavailable if the function has fewer seconds left."""
    if seconds_left(context) < seconds:
        raise ServiceUnavailable("Too little time is left")


def longest_call(client: Any) -> float:
    """Return the seconds that a call of a botocore client without retries takes at most."""
    config = client.meta.config
    return float(config.connect_timeout + config.read_timeout + OWN_SECONDS)
