"""The time that a function has left: a call that could not end in it is not started."""

from typing import Any, Protocol

from callbacks.errors import ServiceUnavailable

# What a function itself does around a call: it signs the request and reads the answer.
OWN_SECONDS = 0.02
# Before its only retry a client pauses for a random time, at most this long.
LONGEST_PAUSE_SECONDS = 1


class Context(Protocol):
    """The part of Lambda's context that the tasks use."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until Lambda ends the function."""


def seconds_left(context: Context) -> float:
    """Return the seconds until Lambda ends the function."""
    return context.get_remaining_time_in_millis() / 1000


def require(context: Context, seconds: float) -> None:
    """Raise ServiceUnavailable if the function has fewer seconds left."""
    if seconds_left(context) < seconds:
        raise ServiceUnavailable("Too little time is left")


def longest_call(client: Any) -> float:
    """Return the seconds that a call of a botocore client with at most one retry takes: each attempt times out."""
    config = client.meta.config
    attempt = config.connect_timeout + config.read_timeout + OWN_SECONDS
    return float(attempt + (config.retries["total_max_attempts"] - 1) * (LONGEST_PAUSE_SECONDS + attempt))
