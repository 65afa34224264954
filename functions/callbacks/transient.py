"""Separates AWS errors that pass from those that stay, so that the state machine retries only the former."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions

from callbacks.errors import ServiceUnavailable

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
        if any(_is_transient(cause) for cause in _chain(error)):
            raise ServiceUnavailable(str(error)) from error
        raise


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
