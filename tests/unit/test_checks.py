import json
from collections.abc import Callable
from typing import Any

import pytest

from callbacks import checks
from callbacks.errors import (
    ConfigurationError,
    InvalidSignature,
    OrderNotFound,
    PaymentMismatch,
    PaymentNotConfirmed,
    ServiceUnavailable,
)

IDS = {"orderId": "482500007436", "paymentId": "pay_bankapp_123"}

# What a check may raise, and what the record then says.
FAILURES: list[tuple[Exception, str]] = [
    (InvalidSignature("signature: does not match"), "InvalidSignature: signature: does not match"),
    (PaymentMismatch("userId: is not the order's"), "PaymentMismatch: userId: is not the order's"),
    (OrderNotFound("not there yet"), "OrderNotFound: not there yet"),
    (PaymentNotConfirmed("not made"), "PaymentNotConfirmed: not made"),
    (ServiceUnavailable("b5f392f7 was too much"), "ServiceUnavailable"),
    (ConfigurationError("a secret"), "ConfigurationError"),
    (KeyError("a secret"), "KeyError"),
    (RecursionError("a secret"), "RecursionError"),
]


def passing() -> None:
    """A check that has nothing to object to."""


def failing(error: Exception) -> Callable[[], None]:
    def perform() -> None:
        raise error

    return perform


@pytest.mark.parametrize("mode", ["warn", "enforce"])
def test_a_check_that_passes_says_so_and_logs_nothing(mode: str, log: Callable[[], list[dict[str, Any]]]) -> None:
    assert checks.carry_out("VerifySignature", mode, passing, **IDS) == {"passed": True, "note": "passed"}
    assert log() == []


@pytest.mark.parametrize(("error", "note"), FAILURES, ids=lambda value: type(value).__name__)
def test_a_check_that_fails_is_noted_in_warn_with_the_message_only_of_our_own_verdicts(
    error: Exception, note: str
) -> None:
    assert checks.carry_out("VerifySignature", "warn", failing(error), **IDS) == {"passed": False, "note": note}


@pytest.mark.parametrize("error", [error for error, _ in FAILURES], ids=lambda error: type(error).__name__)
def test_a_check_that_fails_raises_in_enforce_what_it_raised(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        checks.carry_out("VerifySignature", "enforce", failing(error), **IDS)
    assert raised.value is error


@pytest.mark.parametrize("mode", ["warn", "enforce"])
@pytest.mark.parametrize("error", [error for error, _ in FAILURES], ids=lambda error: type(error).__name__)
def test_a_check_that_fails_is_one_line_with_check_mode_error_and_ids_and_nothing_else(
    mode: str, error: Exception, log: Callable[[], list[dict[str, Any]]]
) -> None:
    try:
        checks.carry_out("CrossCheckPayment", mode, failing(error), **IDS)
    except type(error):
        assert mode == "enforce"
    (line,) = log()
    expected = {"message": "Check failed", "check": "CrossCheckPayment", "mode": mode, "error": type(error).__name__}
    assert line.items() >= {**expected, **IDS, "level": "WARNING"}.items()
    assert line.keys() - expected.keys() - IDS.keys() <= {"level", "location", "timestamp", "service", "xray_trace_id"}
    assert str(error) not in json.dumps(line)


@pytest.mark.parametrize("mode", ["", "off", "Warn", "ENFORCE", "enforce ", "warning", "true"])
@pytest.mark.parametrize("perform", [passing, failing(InvalidSignature("no"))], ids=["passing", "failing"])
def test_another_mode_is_a_configuration_error_and_the_check_is_not_made(
    mode: str, perform: Callable[[], None], log: Callable[[], list[dict[str, Any]]]
) -> None:
    with pytest.raises(
        ConfigurationError, match=r"is not a mode of VerifySignature; there are warn, enforce and off\.$"
    ):
        checks.carry_out("VerifySignature", mode, perform, **IDS)
    assert log() == []


def test_a_verdict_is_not_shared_with_the_next(log: Callable[[], list[dict[str, Any]]]) -> None:
    first = checks.carry_out("VerifySignature", "warn", failing(InvalidSignature("no")))
    assert checks.carry_out("VerifySignature", "warn", passing) == {"passed": True, "note": "passed"}
    assert first["passed"] is False
    assert len(log()) == 1
