import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from callbacks import checks
from callbacks.errors import (
    ConfigurationError,
    InvalidSignature,
    OrderNotFound,
    PaymentMismatch,
    PaymentNotConfirmed,
    ServiceUnavailable,
)
from tests.unit.kit import Log

type Handler = Callable[[dict[str, Any], Any], str]

IDS = {"orderId": "482500007436", "paymentId": "pay_bankapp_123", "requestId": "8f7e6d5c"}
CALLBACK = {"callback": {**IDS, "userId": "b5f392f7"}}

# What a check may raise, and the verdict in warn.
FAILURES: list[tuple[Exception, str]] = [
    (InvalidSignature("signature: does not match"), "failed: InvalidSignature: signature: does not match"),
    (PaymentMismatch("userId: is not the order's"), "failed: PaymentMismatch: userId: is not the order's"),
    (OrderNotFound("not yet"), "failed: OrderNotFound: not yet"),
    (PaymentNotConfirmed("not made"), "failed: PaymentNotConfirmed: not made"),
    (ServiceUnavailable("b5f392f7 was too much"), "failed: ServiceUnavailable"),
    (ConfigurationError("a secret"), "failed: ConfigurationError"),
    (KeyError("a secret"), "failed: KeyError"),
    (RecursionError("a secret"), "failed: RecursionError"),
]
ERRORS = [error for error, _ in FAILURES]


def name_of(error: object) -> str:
    return type(error).__name__


def check_that(error: Exception | None = None) -> Handler:
    """Return a check that passes, or that raises the error."""

    @checks.check("CrossCheckPayment")
    def handler(_: dict[str, Any], __: object) -> None:
        if error:
            raise error

    return handler


@pytest.mark.parametrize("mode", ["warn", "enforce"])
def test_a_check_that_passes_says_so_and_logs_nothing(mode: str, log: Log) -> None:
    assert check_that()({**CALLBACK, "mode": mode}, None) == "passed"
    assert log() == []


@pytest.mark.parametrize(("error", "verdict"), FAILURES, ids=name_of)
def test_in_warn_a_failure_is_a_verdict_with_only_our_own_messages(error: Exception, verdict: str) -> None:
    assert check_that(error)({**CALLBACK, "mode": "warn"}, None) == verdict


@pytest.mark.parametrize("error", ERRORS, ids=name_of)
def test_in_enforce_a_failure_is_raised_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        check_that(error)({**CALLBACK, "mode": "enforce"}, None)
    assert raised.value is error


@pytest.mark.parametrize(("mode", "expected"), [("warn", "failed: ServiceUnavailable"), ("enforce", None)])
def test_an_aws_error_that_passes_is_service_unavailable(mode: str, expected: str | None) -> None:
    handler = check_that(ClientError({"Error": {"Code": "ThrottlingException", "Message": "slow down"}}, "GetItem"))
    if expected:
        assert handler({**CALLBACK, "mode": mode}, None) == expected
        return
    with pytest.raises(ServiceUnavailable):
        handler({**CALLBACK, "mode": mode}, None)


@pytest.mark.parametrize("mode", ["warn", "enforce"])
@pytest.mark.parametrize("error", ERRORS, ids=name_of)
def test_a_failure_logs_check_mode_error_and_ids_and_nothing_else(mode: str, error: Exception, log: Log) -> None:
    try:
        check_that(error)({**CALLBACK, "mode": mode}, None)
    except type(error):
        assert mode == "enforce"
    (line,) = log()
    expected = {"message": "Check failed", "check": "CrossCheckPayment", "mode": mode, "error": name_of(error)}
    assert line.items() >= {**expected, **IDS, "level": "WARNING"}.items()
    assert line.keys() - expected.keys() - IDS.keys() <= {"level", "timestamp", "service", "xray_trace_id"}
    assert str(error) not in json.dumps(line)


@pytest.mark.parametrize(
    ("delivery", "request_id"), [({"requestId": "8f7e6d5c"}, "8f7e6d5c"), ({}, "execution"), (None, "execution")]
)
def test_before_validation_a_failure_logs_the_request_id(delivery: Any, request_id: str, log: Log) -> None:
    event = {"delivery": delivery, "executionName": "execution", "mode": "warn"}
    check_that(InvalidSignature("no"))(event, None)
    assert log()[0]["requestId"] == request_id


@pytest.mark.parametrize("mode", ["", "off", "Warn", "ENFORCE", "enforce ", "warning", "true"])
@pytest.mark.parametrize("error", [None, InvalidSignature("no")], ids=["passing", "failing"])
def test_an_unknown_mode_is_a_configuration_error(mode: str, error: Exception | None, log: Log) -> None:
    with pytest.raises(ConfigurationError, match=r"is not a mode of CrossCheckPayment; use warn, enforce or off\.$"):
        check_that(error)({**CALLBACK, "mode": mode}, None)
    assert log() == []
