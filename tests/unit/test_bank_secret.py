import base64
import json
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

import boto3
import pytest
from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError
from moto import mock_aws

from callbacks.errors import ConfigurationError, ServiceUnavailable
from callbacks.transient import translate_transient_errors

NAME = "kbank-test"
SECRET = {"webhookSecrets": ["whsec_c2VjcmV0IGtleQ=="]}
NEWER = {"webhookSecrets": ["whsec_bmV3ZXIga2V5"]}


@pytest.fixture
def secrets(load: Callable[..., ModuleType], service: Any) -> ModuleType:
    """The module with a Secrets Manager that keeps SECRET."""
    service.keeps_secret(SECRET)
    return load("callbacks.bank_secret", AWS_ENDPOINT_URL=service.url)


def as_lambda_shows(error: BaseException) -> str:
    """The message, and the trace of where it was raised, as Lambda hands them to Step Functions."""
    return str(error) + "".join(traceback.format_tb(error.__traceback__))


def test_a_secret_is_read_from_secrets_manager(load: Callable[..., ModuleType]) -> None:
    with mock_aws():
        boto3.client("secretsmanager").create_secret(Name=NAME, SecretString=json.dumps(SECRET))
        assert load("callbacks.bank_secret").read(NAME) == SECRET


def test_a_secret_that_is_bytes_is_read_as_text(secrets: ModuleType, service: Any) -> None:
    service.answers_at("/", {"SecretBinary": base64.b64encode(json.dumps(SECRET).encode()).decode()})
    assert secrets.read(NAME) == SECRET


def test_a_secret_is_asked_for_by_its_name_with_its_current_version(secrets: ModuleType, service: Any) -> None:
    secrets.read(NAME)
    (request,) = service.requests
    assert request.headers["X-Amz-Target"] == "secretsmanager.GetSecretValue"
    assert json.loads(request.body) == {"SecretId": NAME}


@pytest.mark.parametrize(("seconds", "requests"), [(0, 1), (299, 1), (301, 2)])
def test_a_secret_is_remembered_for_five_minutes(
    secrets: ModuleType, service: Any, later: Callable[[float], None], seconds: float, requests: int
) -> None:
    assert secrets.read(NAME) == SECRET
    service.keeps_secret(NEWER)
    later(seconds)
    assert secrets.read(NAME) == (SECRET if requests == 1 else NEWER)
    assert len(service.requests) == requests


def test_each_secret_is_remembered_for_itself(secrets: ModuleType, service: Any) -> None:
    assert secrets.read(NAME) == SECRET
    service.keeps_secret(NEWER)
    assert secrets.read("kbank-another") == NEWER
    assert secrets.read(NAME) == SECRET
    assert secrets.renew("kbank-another") == NEWER
    assert secrets.renew(NAME) == NEWER


def test_a_renewed_secret_is_the_one_of_now_and_is_remembered(secrets: ModuleType, service: Any) -> None:
    secrets.read(NAME)
    service.keeps_secret(NEWER)
    assert secrets.renew(NAME) == NEWER
    assert secrets.read(NAME) == NEWER
    assert len(service.requests) == 2


def test_a_secret_is_renewed_at_most_every_thirty_seconds(
    secrets: ModuleType, service: Any, later: Callable[[float], None]
) -> None:
    assert secrets.renew(NAME) == SECRET
    for _ in range(3):
        assert secrets.renew(NAME) is None
        later(9.9)
    assert secrets.renew(NAME) is None
    assert len(service.requests) == 1
    later(0.5)
    assert secrets.renew(NAME) == SECRET
    assert len(service.requests) == 2


def test_a_renewal_that_fails_counts_too_so_that_nothing_is_asked_without_end(
    secrets: ModuleType, service: Any
) -> None:
    service.at.clear()
    service.refuses("AccessDeniedException", 400)
    with pytest.raises(GetParameterError):
        secrets.renew(NAME)
    assert secrets.renew(NAME) is None
    assert len(service.requests) == 1


@pytest.mark.parametrize("read", ["read", "renew"])
@pytest.mark.parametrize(
    "text",
    ["hush-hush", "{hush-hush", '{"a": "hush-hush"', '{"a": "hush-hush"}}', "", "[" * 100_000 + "hush-hush"],
    ids=["a word", "a brace", "broken off", "too much", "empty", "nested"],
)
def test_a_secret_that_is_not_json_is_a_configuration_error_that_does_not_show_it(
    secrets: ModuleType, service: Any, read: str, text: str
) -> None:
    service.keeps_secret(text)
    with pytest.raises(ConfigurationError, match=rf"^The secret {NAME} is not JSON\.$") as error:
        getattr(secrets, read)(NAME)
    assert "hush" not in as_lambda_shows(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def test_a_secret_of_bytes_that_are_no_text_is_a_configuration_error(secrets: ModuleType, service: Any) -> None:
    service.answers_at("/", {"SecretBinary": base64.b64encode(b"\xffhush").decode()})
    with pytest.raises(ConfigurationError, match=r"is not JSON\.$"):
        secrets.read(NAME)


@pytest.mark.parametrize("document", ['"hush-hush"', '["hush-hush"]', "null", "42", "true", "NaN"])
def test_a_secret_that_is_not_an_object_is_a_configuration_error_that_does_not_show_it(
    secrets: ModuleType, service: Any, document: str
) -> None:
    service.keeps_secret(document)
    with pytest.raises(ConfigurationError) as error:
        secrets.read(NAME)
    assert str(error.value) == f"The secret {NAME} is not a JSON object."
    assert "hush" not in as_lambda_shows(error.value)


@pytest.mark.parametrize("code", ["ResourceNotFoundException", "AccessDeniedException", "InvalidRequestException"])
def test_a_secret_that_cannot_be_read_keeps_the_name_of_the_error_and_is_asked_for_once(
    secrets: ModuleType, service: Any, code: str
) -> None:
    service.at.clear()
    service.refuses(code, 400)
    with pytest.raises(GetParameterError, match=code), translate_transient_errors():
        secrets.read(NAME)
    assert len(service.requests) == 1


REFUSALS = [("ThrottlingException", 400), ("InternalServiceError", 500), ("ServiceUnavailable", 503)]


@pytest.mark.parametrize(("code", "status"), REFUSALS)
def test_an_error_that_passes_is_service_unavailable_at_once(
    secrets: ModuleType, service: Any, pauses: list[float], code: str, status: int
) -> None:
    service.at.clear()
    service.refuses(code, status)
    with pytest.raises(ServiceUnavailable), translate_transient_errors():
        secrets.read(NAME)
    assert len(service.requests) == 1
    assert pauses == []


def test_a_failure_is_not_remembered(secrets: ModuleType, service: Any) -> None:
    service.refuses_once("AccessDeniedException", 400)
    with pytest.raises(GetParameterError):
        secrets.read(NAME)
    assert secrets.read(NAME) == SECRET


def test_a_secrets_manager_that_does_not_answer_is_given_up_in_time(
    secrets: ModuleType, service: Any, pauses: list[float], within: Any
) -> None:
    service.hangs()
    with within(1.5), pytest.raises(ServiceUnavailable), translate_transient_errors():
        secrets.read(NAME)
    assert len(service.requests) == 1
    assert pauses == []


def test_a_secrets_manager_that_cannot_be_reached_is_given_up_in_time(
    load: Callable[..., ModuleType], deaf: str, pauses: list[float], within: Any
) -> None:
    secrets = load("callbacks.bank_secret", AWS_ENDPOINT_URL=deaf)
    with within(1.5), pytest.raises(ServiceUnavailable), translate_transient_errors():
        secrets.read(NAME)
    assert pauses == []


def test_a_refused_connection_is_service_unavailable(
    load: Callable[..., ModuleType], nobody: str, pauses: list[float]
) -> None:
    secrets = load("callbacks.bank_secret", AWS_ENDPOINT_URL=nobody)
    with pytest.raises(ServiceUnavailable), translate_transient_errors():
        secrets.read(NAME)
    assert pauses == []


def test_a_secret_that_is_known_outlasts_a_secrets_manager_that_is_down(secrets: ModuleType, service: Any) -> None:
    secrets.read(NAME)
    service.hangs()
    assert secrets.read(NAME) == SECRET
