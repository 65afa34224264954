import json
import traceback
from decimal import Decimal
from importlib import import_module
from types import SimpleNamespace

import pytest

from callbacks.bank import Inquiry
from callbacks.errors import ConfigurationError, PaymentMismatch, PaymentNotConfirmed, ServiceUnavailable
from tests.unit.kit import Json, Later, Load, Log, Service, Task, context

TOKEN = {"access_token": "token-of-the-bank", "token_type": "Bearer", "expires_in": 3600}
TOKEN_PATH, INQUIRY_PATH = "/oauth/token", "/payments/inquiry"
PASSED = "passed"


def event(callback: Json, mode: str = "enforce", **changes: str | None) -> Json:
    """Return what the state passes to the task."""
    return {"callback": {**callback, **changes}, "mode": mode, "secret": "kbank-test"}


def refusal(task: Task, event: Json, error: type[Exception]) -> str:
    """Return the message of the task's error; as Lambda shows it, it contains no credentials and no personal data."""
    with pytest.raises(error) as raised:
        task.handler(event, context())
    shown = str(raised.value) + "".join(traceback.format_tb(raised.value.__traceback__))
    for private in ("hush-hush", "token-of-the-bank", "cGF5bWVudDM6aHVzaC1odXNo", "b5f392f7", "2339"):
        assert private not in shown
    return str(raised.value)


# The rules


def task_with(inquiry: Inquiry, patch: pytest.MonkeyPatch) -> Task:
    """Return the task with a bank that gives this answer."""
    task = import_module("inquire_payment")
    patch.setattr(task.bank_secret, "read", lambda *_, **__: {})
    patch.setattr(task.bank, "connect", lambda _: SimpleNamespace(inquire=lambda *_: inquiry))
    return task


@pytest.mark.parametrize("amount", [Decimal("2339.00"), None])
def test_a_payment_that_was_not_made_is_not_confirmed(
    callback: Json, monkeypatch: pytest.MonkeyPatch, amount: Decimal | None
) -> None:
    task = task_with(Inquiry(is_paid=False, amount=amount), monkeypatch)
    assert refusal(task, event(callback), PaymentNotConfirmed) == "The bank does not confirm the payment"


@pytest.mark.parametrize(
    ("known", "amount"),
    [
        ("2339", "2339.0"),
        ("2339.00", "2339"),
        ("1.50", "15e-1"),
        ("0.3", "0.30"),
        ("90071992547409.93", "90071992547409.93"),
        ("12345678901234567890123456789012345678", "12345678901234567890123456789012345678"),
        ("0", "0"),
    ],
)
def test_the_same_amount_passes_in_any_spelling(
    callback: Json, monkeypatch: pytest.MonkeyPatch, known: str, amount: str
) -> None:
    task = task_with(Inquiry(is_paid=True, amount=Decimal(known)), monkeypatch)
    assert task.handler(event(callback, amount=amount), context()) == PASSED


@pytest.mark.parametrize(
    ("known", "amount"),
    [
        ("2338.99", "2339"),
        ("233900", "2339"),
        ("-2339", "2339"),
        ("0.30000000000000004", "0.3"),
        ("0.1", "0.1000000000000000055511151231257827"),
        ("90071992547409.93", "90071992547409.92"),
        ("12345678901234567890123456789012345679", "12345678901234567890123456789012345678"),
        (None, "2339"),
        ("2339", None),
        (None, None),
    ],
)
def test_another_amount_or_none_on_either_side_is_a_mismatch(
    callback: Json, monkeypatch: pytest.MonkeyPatch, known: str | None, amount: str | None
) -> None:
    task = task_with(Inquiry(is_paid=True, amount=None if known is None else Decimal(known)), monkeypatch)
    assert refusal(task, event(callback, amount=amount), PaymentMismatch) == "amount: is not the bank's"


# The bank and its secret


def access(service: Service, **changes: str) -> Json:
    """Return the secret of a bank that the service plays."""
    inquiry = {"baseUrl": service.url, "clientId": "payment3", "clientSecret": "hush-hush", **changes}
    return {"webhookSecrets": ["hush-hush"], "inquiry": inquiry}


@pytest.fixture
def task(load: Load, service: Service) -> Task:
    """The task, with a bank that answers PAID and its access data in Secrets Manager."""
    service.keeps_secret(access(service))
    service.answers_at(TOKEN_PATH, TOKEN)
    service.answers_at(INQUIRY_PATH, {"status": "PAID", "amount": "2339.00"})
    return load("inquire_payment", AWS_ENDPOINT_URL=service.url)


def paths(service: Service) -> list[str]:
    return [request.path for request in service.requests]


def test_the_bank_is_asked_for_the_payment_of_the_callback(
    task: Task, service: Service, callback: Json, log: Log
) -> None:
    assert task.handler(event(callback), context()) == PASSED
    assert paths(service) == ["/", TOKEN_PATH, INQUIRY_PATH]
    assert json.loads(service.requests[0].body) == {"SecretId": "kbank-test"}
    assert json.loads(service.requests[-1].body) == {"orderId": "482500007436", "paymentId": "pay_bankapp_123"}
    assert log() == []


def test_secret_and_token_are_kept_for_the_next_callback(task: Task, service: Service, callback: Json) -> None:
    for _ in range(3):
        assert task.handler(event(callback), context()) == PASSED
    assert paths(service) == ["/", TOKEN_PATH, *[INQUIRY_PATH] * 3]


def test_changed_access_data_is_used_once_the_secret_is_read_again(
    task: Task, service: Service, callback: Json, later: Later
) -> None:
    task.handler(event(callback), context())
    service.keeps_secret(access(service, clientSecret="newer"))
    later(301)
    task.handler(event(callback), context())
    assert paths(service) == ["/", TOKEN_PATH, INQUIRY_PATH] * 2
    first, second = (request.headers["authorization"] for request in service.requests if request.path == TOKEN_PATH)
    assert first != second


def test_a_bank_that_fails_is_service_unavailable(task: Task, service: Service, callback: Json) -> None:
    service.answers_at(INQUIRY_PATH, {"status": "PAID", "amount": "2339.00"}, 503)
    assert refusal(task, event(callback), ServiceUnavailable) == "The bank answered 503"


@pytest.mark.parametrize("secret", [{}, {"inquiry": {"clientSecret": "hush-hush"}}, "hush-hush"], ids=str)
def test_a_secret_without_usable_access_data_is_a_configuration_error(
    task: Task, service: Service, callback: Json, secret: object
) -> None:
    service.keeps_secret(secret)
    assert refusal(task, event(callback), ConfigurationError).startswith("The secret ")
    assert paths(service) == ["/"]


def test_a_secret_that_cannot_be_read_is_named_and_the_bank_is_not_asked(
    task: Task, service: Service, callback: Json, pauses: list[float]
) -> None:
    service.at.clear()
    service.refuses("ThrottlingException", 400)
    assert "ThrottlingException" in refusal(task, event(callback), ServiceUnavailable)
    assert (paths(service), len(pauses)) == (["/", "/"], 1)


# Warn


def test_in_warn_an_unconfirmed_payment_is_a_verdict_and_logs_ids_alone(
    task: Task, service: Service, callback: Json, log: Log
) -> None:
    service.answers_at(INQUIRY_PATH, {"status": "PAID", "amount": 1})
    verdict = "failed: PaymentMismatch: amount: is not the bank's"
    assert task.handler(event(callback, "warn"), context()) == verdict
    (line,) = log()
    ids = {"orderId": "482500007436", "paymentId": "pay_bankapp_123", "requestId": "8f7e6d5c"}
    assert line.items() >= {"check": "InquirePayment", "error": "PaymentMismatch", **ids}.items()
    for private in ("hush", "token-of-the-bank", callback["userId"], "2339"):
        assert private not in json.dumps(line)
