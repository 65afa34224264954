from typing import Any

import pytest
from botocore import exceptions
from botocore.exceptions import ClientError
from pynamodb.exceptions import PutError, VerboseClientError

from callbacks.errors import InvalidCallback, ServiceUnavailable
from callbacks.transient import translate_transient_errors

URL = "https://dynamodb.ap-southeast-1.amazonaws.com"


def client_error(code: str, status: int) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "PutItem")


def put_error(code: str, status: int) -> PutError:
    """What PynamoDB raises: an error around one that has only the code and was raised from botocore's."""
    cause = VerboseClientError({"Error": {"Code": code, "Message": "no"}}, "PutItem")
    cause.__cause__ = client_error(code, status)
    error = PutError("Failed to put item", cause)
    error.__context__ = cause
    return error


TRANSIENT: dict[str, Exception] = {
    "a throttled table": client_error("ProvisionedThroughputExceededException", 400),
    "a throttled account": client_error("RequestLimitExceeded", 400),
    "a throttled request": client_error("ThrottlingException", 400),
    "a throttled e-mail": client_error("Throttling", 400),
    "a throttled function": client_error("TooManyRequestsException", 429),
    "a limit": client_error("LimitExceededException", 400),
    "an internal error": client_error("InternalServerError", 500),
    "an unnamed 502": client_error("502", 502),
    "an unavailable service": client_error("ServiceUnavailable", 503),
    "no connection in time": exceptions.ConnectTimeoutError(endpoint_url=URL),
    "no answer in time": exceptions.ReadTimeoutError(endpoint_url=URL),
    "a refused connection": exceptions.EndpointConnectionError(endpoint_url=URL),
    "a closed connection": exceptions.ConnectionClosedError(endpoint_url=URL),
}
PERMANENT: dict[str, Exception] = {
    "no permission": client_error("AccessDeniedException", 400),
    "an invalid request": client_error("ValidationException", 400),
    "no such table": client_error("ResourceNotFoundException", 400),
    "a failed condition": client_error("ConditionalCheckFailedException", 400),
    "a refused e-mail": client_error("MessageRejected", 400),
    "no credentials": exceptions.NoCredentialsError(),
    "an invalid parameter": exceptions.ParamValidationError(report="no"),
    "one of our errors": InvalidCallback("no"),
    "a bug": KeyError("no"),
}


@pytest.mark.parametrize("error", TRANSIENT.values(), ids=TRANSIENT)
def test_a_transient_error_is_service_unavailable(error: Exception) -> None:
    with pytest.raises(ServiceUnavailable) as raised, translate_transient_errors():
        raise error
    assert str(raised.value) == str(error)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", PERMANENT.values(), ids=PERMANENT)
def test_a_permanent_error_is_raised_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, translate_transient_errors():
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    ("code", "status"), [("ProvisionedThroughputExceededException", 400), ("InternalServerError", 500)]
)
def test_a_transient_error_is_found_inside_one_of_pynamodb(code: str, status: int) -> None:
    with pytest.raises(ServiceUnavailable), translate_transient_errors():
        raise put_error(code, status)


@pytest.mark.parametrize("code", ["ConditionalCheckFailedException", "AccessDeniedException"])
def test_a_permanent_error_inside_one_of_pynamodb_is_raised_unchanged(code: str) -> None:
    with pytest.raises(PutError), translate_transient_errors():
        raise put_error(code, 400)


def test_a_block_without_an_error_is_left_alone() -> None:
    done: list[Any] = []
    with translate_transient_errors():
        done.append(1)
    assert done == [1]


def test_a_keyboard_interrupt_is_left_alone() -> None:
    with pytest.raises(KeyboardInterrupt), translate_transient_errors():
        raise KeyboardInterrupt
