from typing import Any

import pytest
from botocore import exceptions
from botocore.exceptions import ClientError
from pynamodb.exceptions import PutError, VerboseClientError

from callbacks.errors import InvalidCallback, ServiceUnavailable
from callbacks.transient import translate_transient_errors

URL = "https://dynamodb.ap-southeast-1.amazonaws.com"


def client_error(code: str, status: int) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutItem"
    )


def put_error(code: str, status: int) -> PutError:
    """What PynamoDB raises: an error around one that knows the code alone and was raised from botocore's."""
    cause = VerboseClientError({"Error": {"Code": code, "Message": "no"}}, "PutItem")
    cause.__cause__ = client_error(code, status)
    error = PutError("Failed to put item", cause)
    error.__context__ = cause
    return error


PASSING: dict[str, Exception] = {
    "a throttled table": client_error("ProvisionedThroughputExceededException", 400),
    "a throttled account": client_error("RequestLimitExceeded", 400),
    "a throttled request": client_error("ThrottlingException", 400),
    "a throttled mail": client_error("Throttling", 400),
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
STAYING: dict[str, Exception] = {
    "no permission": client_error("AccessDeniedException", 400),
    "a request that is wrong": client_error("ValidationException", 400),
    "no such table": client_error("ResourceNotFoundException", 400),
    "a condition that does not hold": client_error("ConditionalCheckFailedException", 400),
    "a refused mail": client_error("MessageRejected", 400),
    "no credentials": exceptions.NoCredentialsError(),
    "a wrong parameter": exceptions.ParamValidationError(report="no"),
    "an error of ours": InvalidCallback("no"),
    "a mistake of ours": KeyError("no"),
}


@pytest.mark.parametrize("error", PASSING.values(), ids=PASSING)
def test_a_transient_error_is_service_unavailable(error: Exception) -> None:
    with pytest.raises(ServiceUnavailable) as raised, translate_transient_errors():
        raise error
    assert str(raised.value) == str(error)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", STAYING.values(), ids=STAYING)
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
