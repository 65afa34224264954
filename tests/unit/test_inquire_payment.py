import json
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError

from callbacks.errors import ConfigurationError, PaymentMismatch, PaymentNotConfirmed, ServiceUnavailable

TOKEN = {"access_token": "token-of-the-bank", "token_type": "Bearer", "expires_in": 3600}
TOKEN_PATH, INQUIRY_PATH = "/oauth/token", "/payments/inquiry"
PASSED = "passed"

Task = ModuleType
Log = Callable[[], list[dict[str, Any]]]


def event(callback: dict[str, Any], mode: str = "enforce", **changes: Any) -> dict[str, Any]:
    """What the state passes on."""
    return {"callback": {**callback, **changes}, "mode": mode, "secret": "kbank-test"}


def access(service: Any, **changes: Any) -> dict[str, Any]:
    inquiry = {"baseUrl": service.url, "clientId": "payment3", "clientSecret": "hush-hush", **changes}
    return {"webhookSecrets": ["hush-hush"], "inquiry": inquiry}


def says(service: Any, amount: str, status: str = "PAID") -> None:
    """Have the bank answer with an amount that is written like this."""
    service.answers_at(INQUIRY_PATH, f'{{"status": "{status}", "amount": {amount}}}'.encode())


@pytest.fixture
def task(load: Callable[..., ModuleType], service: Any) -> ModuleType:
    """The task with a Secrets Manager that has the bank's access, and a bank that says PAID."""
    service.keeps_secret(access(service))
    service.answers_at(TOKEN_PATH, TOKEN)
    says(service, '"2339.00"')
    return load("inquire_payment", AWS_ENDPOINT_URL=service.url)


def raised(task: Task, event: dict[str, Any], error: type[Exception]) -> str:
    """The message of the error that the task raises; as Lambda shows it, it has no credentials and nobody's data."""
    with pytest.raises(error) as found:
        task.handler(event, None)
    shown = str(found.value) + "".join(traceback.format_tb(found.value.__traceback__))
    for private in ("hush-hush", "token-of-the-bank", "cGF5bWVudDM6aHVzaC1odXNo", "b5f392f7", "2339"):
        assert private not in shown
    return str(found.value)


def paths(service: Any) -> list[str]:
    return [request.path for request in service.requests]


def test_a_payment_that_the_bank_says_was_made_passes(
    task: Task, service: Any, callback: dict[str, Any], log: Log
) -> None:
    assert task.handler(event(callback), None) == PASSED
    assert paths(service) == ["/", TOKEN_PATH, INQUIRY_PATH]
    assert json.loads(service.requests[-1].body) == {"orderId": "482500007436", "paymentId": "pay_bankapp_123"}
    assert log() == []


def test_secret_token_and_connection_are_kept_from_one_callback_to_the_next(
    task: Task, service: Any, callback: dict[str, Any]
) -> None:
    for _ in range(3):
        assert task.handler(event(callback), None) == PASSED
    assert paths(service) == ["/", TOKEN_PATH, *[INQUIRY_PATH] * 3]


def test_an_access_that_changed_is_used_when_the_secret_is_read_again(
    task: Task, service: Any, callback: dict[str, Any], later: Callable[[float], None]
) -> None:
    task.handler(event(callback), None)
    service.keeps_secret(access(service, clientSecret="newer"))
    later(301)
    task.handler(event(callback), None)
    assert paths(service) == ["/", TOKEN_PATH, INQUIRY_PATH] * 2
    first, second = (request.headers["authorization"] for request in service.requests if request.path == TOKEN_PATH)
    assert first != second


@pytest.mark.parametrize("status", ["DECLINED", "PENDING", "paid", ""])
def test_a_payment_that_the_bank_does_not_say_was_made_is_not_confirmed(
    task: Task, service: Any, callback: dict[str, Any], status: str
) -> None:
    says(service, '"2339.00"', status)
    message = raised(task, event(callback), PaymentNotConfirmed)
    assert message == "The bank does not confirm the payment"


@pytest.mark.parametrize(
    ("bank", "amount"),
    [
        ("2339", "2339.0"),
        ("2339.00", "2339"),
        ('"2339.00"', "2339"),
        ("1.5", "1.50"),
        ('"1.50"', "15e-1"),
        ("0.30000000000000004", "0.30000000000000004"),
        ("0.3", "0.30"),
        ("90071992547409.93", "90071992547409.93"),
        ("12345678901234567890123456789012345678", "12345678901234567890123456789012345678"),
        ("0", "0"),
    ],
)
def test_the_same_amount_passes_in_whatever_spelling(
    task: Task, service: Any, callback: dict[str, Any], bank: str, amount: str
) -> None:
    says(service, bank)
    assert task.handler(event(callback, amount=amount), None) == PASSED


@pytest.mark.parametrize(
    ("bank", "amount"),
    [
        ("2338.99", "2339"),
        ("233900", "2339"),
        ("-2339", "2339"),
        ("0.30000000000000004", "0.3"),
        ("0.1", "0.1000000000000000055511151231257827"),
        ("90071992547409.93", "90071992547409.92"),
        ("12345678901234567890123456789012345679", "12345678901234567890123456789012345678"),
        ("null", "2339"),
        ("2339", None),
        ("null", None),
    ],
    ids=str,
)
def test_another_amount_or_none_on_either_side_is_a_mismatch(
    task: Task, service: Any, callback: dict[str, Any], bank: str, amount: str | None
) -> None:
    says(service, bank)
    message = raised(task, event(callback, amount=amount), PaymentMismatch)
    assert message == "amount: is not the bank's"


@pytest.mark.parametrize("bank", ["true", '"sNaN"', "NaN", "[]", '"abc"'])
def test_an_amount_that_is_none_is_no_answer_of_the_bank(
    task: Task, service: Any, callback: dict[str, Any], bank: str
) -> None:
    says(service, bank)
    raised(task, event(callback, amount="1"), ServiceUnavailable)


# The bank


@pytest.mark.parametrize("status", [302, 400, 401, 404, 429, 500, 503])
def test_a_bank_that_fails_is_service_unavailable(
    task: Task, service: Any, callback: dict[str, Any], status: int
) -> None:
    service.answers_at(INQUIRY_PATH, {"status": "PAID", "amount": "2339.00"}, status, Location=f"{service.url}/")
    assert raised(task, event(callback), ServiceUnavailable) == f"The bank answered {status}"
    assert paths(service).count("/") == 1


def test_a_bank_that_does_not_take_the_token_any_more_is_asked_for_another_the_next_time(
    task: Task, service: Any, callback: dict[str, Any]
) -> None:
    service.answers_at(INQUIRY_PATH, {}, 401)
    raised(task, event(callback), ServiceUnavailable)
    says(service, "2339")
    assert task.handler(event(callback), None) == PASSED
    assert paths(service) == ["/", *[TOKEN_PATH, INQUIRY_PATH] * 2]


def test_a_bank_that_is_slow_is_given_up_within_the_steps_time(
    task: Task, service: Any, callback: dict[str, Any], within: Any
) -> None:
    task.handler(event(callback), None)
    service.hangs()
    with within(2.5):
        raised(task, event(callback), ServiceUnavailable)


def test_a_bank_that_cannot_be_reached_is_given_up_within_the_steps_time(
    task: Task, service: Any, deaf: str, callback: dict[str, Any], within: Any
) -> None:
    service.keeps_secret(access(service, baseUrl=deaf))
    with within(2.5):
        raised(task, event(callback), ServiceUnavailable)


def test_a_bank_that_refuses_the_connection_is_service_unavailable(
    task: Task, service: Any, nobody: str, callback: dict[str, Any]
) -> None:
    service.keeps_secret(access(service, baseUrl=nobody))
    assert "NewConnectionError" in raised(task, event(callback), ServiceUnavailable)


# The access


@pytest.mark.parametrize(
    "secret",
    [
        {},
        {"inquiry": None},
        {"inquiry": "hush-hush"},
        {"inquiry": ["hush-hush"]},
        {"inquiry": {}},
        {"inquiry": {"baseUrl": "https://bank.example", "clientId": "hush-hush"}},
        {"inquiry": {"clientId": "payment3", "clientSecret": "hush-hush"}},
        {"inquiry": {"baseUrl": 5, "clientId": "payment3", "clientSecret": "hush-hush"}},
        {"inquiry": {"baseUrl": None, "clientId": "payment3", "clientSecret": "hush-hush"}},
        {"inquiry": {"baseUrl": "https://bank.example", "clientId": "payment3", "clientSecret": ["hush-hush"]}},
        {"inquiry": {"baseUrl": "https://bank.example", "clientId": "payment3", "clientSecret": "hush-hush ชำระ"}},
        {"inquiry": {"baseUrl": "http://bank.example", "clientId": "payment3", "clientSecret": "hush-hush"}},
        {"inquiry": {"baseUrl": "https://hush-hush@[", "clientId": "payment3", "clientSecret": "hush-hush"}},
        ["hush-hush"],
        "hush-hush",
    ],
    ids=str,
)
def test_a_secret_without_a_usable_access_is_a_configuration_error_that_does_not_show_it(
    task: Task, service: Any, callback: dict[str, Any], secret: object
) -> None:
    service.keeps_secret(secret)
    assert raised(task, event(callback), ConfigurationError)
    assert paths(service) == ["/"]


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("ThrottlingException", 400, ServiceUnavailable),
        ("InternalServiceError", 500, ServiceUnavailable),
        ("ResourceNotFoundException", 400, GetParameterError),
        ("AccessDeniedException", 400, GetParameterError),
    ],
)
@pytest.mark.usefixtures("pauses")
def test_a_secret_that_cannot_be_read_is_named_and_the_bank_is_not_asked(
    task: Task, service: Any, callback: dict[str, Any], code: str, status: int, error: type[Exception]
) -> None:
    service.at.clear()
    service.refuses(code, status)
    assert code in raised(task, event(callback), error)
    assert set(paths(service)) == {"/"}


@pytest.mark.usefixtures("pauses")
def test_a_secrets_manager_that_does_not_answer_is_given_up_within_the_steps_time(
    task: Task, service: Any, callback: dict[str, Any], within: Any
) -> None:
    service.hangs()
    with within(1.5):
        raised(task, event(callback), ServiceUnavailable)


# The modes


@pytest.mark.parametrize(
    ("answer", "status", "note"),
    [
        ({"status": "PENDING"}, 200, "PaymentNotConfirmed: The bank does not confirm the payment"),
        ({"status": "PAID", "amount": 1}, 200, "PaymentMismatch: amount: is not the bank's"),
        ({"status": "PAID", "amount": "sNaN"}, 200, "ServiceUnavailable"),
        ({}, 500, "ServiceUnavailable"),
        ([], 200, "ServiceUnavailable"),
    ],
    ids=str,
)
def test_what_is_not_confirmed_is_noted_in_warn_and_logged_with_ids_alone(
    task: Task, service: Any, callback: dict[str, Any], log: Log, answer: object, status: int, note: str
) -> None:
    service.answers_at(INQUIRY_PATH, answer, status)
    assert task.handler(event(callback, "warn"), None) == f"failed: {note}"
    (line,) = log()
    ids = {"orderId": "482500007436", "paymentId": "pay_bankapp_123", "requestId": "8f7e6d5c"}
    assert line.items() >= {"check": "InquirePayment", "error": note.partition(":")[0], **ids}.items()
    for private in ("hush", "token-of-the-bank", callback["userId"], "2339"):
        assert private not in json.dumps(line)


@pytest.mark.parametrize("secret", [{}, "hush-hush", {"inquiry": {"baseUrl": "http://bank.example"}}], ids=str)
def test_a_secret_that_is_wrong_is_noted_in_warn(
    task: Task, service: Any, callback: dict[str, Any], secret: object
) -> None:
    service.keeps_secret(secret)
    assert task.handler(event(callback, "warn"), None) == "failed: ConfigurationError"


def test_another_mode_is_a_configuration_error_and_nobody_is_asked(
    task: Task, service: Any, callback: dict[str, Any]
) -> None:
    assert "is not a mode of InquirePayment" in raised(task, event(callback, "off"), ConfigurationError)
    assert service.requests == []
