"""Tells the AWS errors that pass from those that stay, so that the state machine retries only the former."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import ClientError, HTTPClientError

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
def transient_errors_named() -> Iterator[None]:
    """Raise ServiceUnavailable in place of an AWS error that a retry can cure; let any other error pass as it is."""
    try:
        yield
    except Exception as error:
        # PynamoDB wraps what botocore raised.
        cause = getattr(error, "cause", None) or error
        if _is_transient(cause):
            raise ServiceUnavailable(str(cause)) from error
        raise


def _is_transient(error: object) -> bool:
    if isinstance(error, ClientError):
        code = error.response["Error"]["Code"]
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return code in THROTTLES or status >= 500
    return isinstance(error, HTTPClientError)
