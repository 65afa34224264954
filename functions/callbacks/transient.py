"""Separates AWS errors that pass from those that stay, so that only the former are retried."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from botocore import exceptions

from callbacks import deadline
from callbacks.deadline import Context
from callbacks.errors import ServiceUnavailable

# Before a call is repeated: a throttle or a broken connection rarely lasts longer.
PAUSE_SECONDS = 0.1

THROTTLES = {
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}


@contextmanager
def translate_transient_errors() -> Iterator[None]:
    """Raise ServiceUnavailable instead of an AWS error that a retry can cure; leave other errors alone."""
    try:
        yield
    except Exception as error:
        if _will_pass(error):
            raise ServiceUnavailable(str(error)) from error
        raise


def repeat_once[T](call: Callable[[], T], context: Context, seconds: float) -> T:
    """Return what `call` returns; if it fails with an error that passes, repeat it once after a pause.

    It is repeated only if `seconds` are left after the pause: what the call, and all that follows it, takes at most.
    For states that have no time for a retry.
    """
    try:
        return call()
    except Exception as error:
        if not _will_pass(error) or deadline.seconds_left(context) < PAUSE_SECONDS + seconds:
            raise
    time.sleep(PAUSE_SECONDS)
    return call()


def _will_pass(error: BaseException) -> bool:
    return any(_is_transient(cause) for cause in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes: PynamoDB wraps botocore's errors and drops their HTTP status."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return error.response["Error"]["Code"] in THROTTLES or status >= 500
    return isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError)
