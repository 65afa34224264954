import base64
import json
import traceback

import pytest
from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError
from moto import mock_aws

from callbacks.errors import ConfigurationError, ServiceUnavailable
from callbacks.transient import translate_transient_errors
from tests.unit.kit import Later, Load, Service, Task, Within

NAME = "kbank-test"
SECRET = {"webhookSecrets": ["whsec_c2VjcmV0IGtleQ=="]}
NEWER = {"webhookSecrets": ["whsec_bmV3ZXIga2V5"]}


@pytest.fixture
def secrets(load: Load, service: Service) -> Task:
    """The module, and a Secrets Manager that holds SECRET."""
    service.keeps_secret(SECRET)
    return load("callbacks.bank_secret", AWS_ENDPOINT_URL=service.url)


def as_lambda_shows(error: BaseException) -> str:
    """Return the message and the stack trace, as Lambda reports them to Step Functions."""
    return str(error) + "".join(traceback.format_tb(error.__traceback__))


def test_a_secret_is_read_from_secrets_manager(load: Load) -> None:
    with mock_aws():
        secrets = load("callbacks.bank_secret")
        secrets.provider.client.create_secret(Name=NAME, SecretString=json.dumps(SECRET))
        assert secrets.read(NAME) == SECRET


def test_a_secret_in_bytes_is_read_as_text(secrets: Task, service: Service) -> None:
    service.answers_at("/", {"SecretBinary": base64.b64encode(json.dumps(SECRET).encode()).decode()})
    assert secrets.read(NAME) == SECRET


def test_the_current_version_of_a_secret_is_requested_by_name(secrets: Task, service: Service) -> None:
    secrets.read(NAME)
    (request,) = service.requests
    assert request.headers["X-Amz-Target"] == "secretsmanager.GetSecretValue"
    assert json.loads(request.body) == {"SecretId": NAME}


# Memory


@pytest.mark.parametrize(("seconds", "requests"), [(0, 1), (299, 1), (301, 2)])
def test_a_secret_is_remembered_for_five_minutes(
    secrets: Task, service: Service, later: Later, seconds: float, requests: int
) -> None:
    assert secrets.read(NAME) == SECRET
    service.keeps_secret(NEWER)
    later(seconds)
    assert secrets.read(NAME) == (SECRET if requests == 1 else NEWER)
    assert len(service.requests) == requests


def test_each_secret_is_remembered_and_renewed_on_its_own(secrets: Task, service: Service) -> None:
    assert secrets.read(NAME) == SECRET
    service.keeps_secret(NEWER)
    assert secrets.read("kbank-another") == NEWER
    assert secrets.read(NAME) == SECRET
    assert secrets.renew("kbank-another") == NEWER
    assert secrets.renew(NAME) == NEWER


def test_a_renewed_secret_is_current_and_is_remembered(secrets: Task, service: Service) -> None:
    secrets.read(NAME)
    service.keeps_secret(NEWER)
    assert secrets.renew(NAME) == NEWER
    assert secrets.read(NAME) == NEWER
    assert len(service.requests) == 2


def test_a_refresh_reads_the_current_secret_every_time(secrets: Task, service: Service) -> None:
    assert secrets.read(NAME, refresh=True) == SECRET
    service.keeps_secret(NEWER)
    assert secrets.read(NAME, refresh=True) == NEWER
    assert len(service.requests) == 2


def test_a_secret_is_renewed_at_most_every_thirty_seconds(secrets: Task, service: Service, later: Later) -> None:
    assert secrets.renew(NAME) == SECRET
    for _ in range(3):
        assert secrets.renew(NAME) is None
        later(9.9)
    assert secrets.renew(NAME) is None
    assert len(service.requests) == 1
    later(0.5)
    assert secrets.renew(NAME) == SECRET
    assert len(service.requests) == 2


def test_a_failed_renewal_counts_too(secrets: Task, service: Service) -> None:
    service.at.clear()
    service.refuses("AccessDeniedException", 400)
    with pytest.raises(GetParameterError):
        secrets.renew(NAME)
    assert secrets.renew(NAME) is None
    assert len(service.requests) == 1


def test_a_failure_is_not_remembered(secrets: Task, service: Service) -> None:
    service.refuses_once("AccessDeniedException", 400)
    with pytest.raises(GetParameterError):
        secrets.read(NAME)
    assert secrets.read(NAME) == SECRET


def test_a_remembered_secret_outlasts_an_outage_of_secrets_manager(secrets: Task, service: Service) -> None:
    secrets.read(NAME)
    service.hangs()
    assert secrets.read(NAME) == SECRET


# Wrong secrets


@pytest.mark.parametrize(
    "text",
    ["hush-hush", "{hush-hush", '{"a": "hush-hush"', '{"a": "hush-hush"}}', "", "[" * 100_000 + "hush-hush"],
    ids=["a word", "a brace", "cut off", "too much", "empty", "nested"],
)
def test_a_secret_that_is_not_json_is_a_configuration_error(secrets: Task, service: Service, text: str) -> None:
    service.keeps_secret(text)
    with pytest.raises(ConfigurationError, match=rf"^The secret {NAME} is not JSON\.$") as error:
        secrets.read(NAME)
    assert "hush" not in as_lambda_shows(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def test_a_renewed_secret_follows_the_same_rules(secrets: Task, service: Service) -> None:
    service.keeps_secret("hush-hush")
    with pytest.raises(ConfigurationError, match=rf"^The secret {NAME} is not JSON\.$") as error:
        secrets.renew(NAME)
    assert "hush" not in as_lambda_shows(error.value)


def test_a_secret_whose_bytes_are_not_text_is_a_configuration_error(secrets: Task, service: Service) -> None:
    service.answers_at("/", {"SecretBinary": base64.b64encode(b"\xffhush").decode()})
    with pytest.raises(ConfigurationError, match=rf"^The secret {NAME} is not JSON\.$") as error:
        secrets.read(NAME)
    assert "hush" not in as_lambda_shows(error.value)


@pytest.mark.parametrize("document", ['"hush-hush"', '["hush-hush"]', "null", "42"])
def test_a_secret_that_is_not_an_object_is_a_configuration_error(
    secrets: Task, service: Service, document: str
) -> None:
    service.keeps_secret(document)
    with pytest.raises(ConfigurationError, match=rf"^The secret {NAME} is not a JSON object\.$") as error:
        secrets.read(NAME)
    assert "hush" not in as_lambda_shows(error.value)


# Failures of Secrets Manager


@pytest.mark.parametrize("code", ["ResourceNotFoundException", "AccessDeniedException"])
def test_an_error_that_stays_is_named_and_not_retried(secrets: Task, service: Service, code: str) -> None:
    service.at.clear()
    service.refuses(code, 400)
    with pytest.raises(GetParameterError, match=code), translate_transient_errors():
        secrets.read(NAME)
    assert len(service.requests) == 1


@pytest.mark.parametrize(("code", "status"), [("ThrottlingException", 400), ("InternalServiceError", 500)])
def test_an_error_that_passes_is_service_unavailable_at_once(
    secrets: Task, service: Service, pauses: list[float], code: str, status: int
) -> None:
    service.at.clear()
    service.refuses(code, status)
    with pytest.raises(ServiceUnavailable), translate_transient_errors():
        secrets.read(NAME)
    assert len(service.requests) == 1
    assert pauses == []


def test_a_secrets_manager_that_does_not_answer_is_abandoned_in_time(
    secrets: Task, service: Service, pauses: list[float], within: Within
) -> None:
    service.hangs()
    with within(1.5), pytest.raises(ServiceUnavailable), translate_transient_errors():
        secrets.read(NAME)
    assert len(service.requests) == 1
    assert pauses == []


def test_a_secrets_manager_that_does_not_connect_is_abandoned_in_time(
    load: Load, deaf: str, pauses: list[float], within: Within
) -> None:
    secrets = load("callbacks.bank_secret", AWS_ENDPOINT_URL=deaf)
    with within(1.5), pytest.raises(ServiceUnavailable), translate_transient_errors():
        secrets.read(NAME)
    assert pauses == []


def test_a_refused_connection_is_service_unavailable(load: Load, nobody: str, pauses: list[float]) -> None:
    secrets = load("callbacks.bank_secret", AWS_ENDPOINT_URL=nobody)
    with pytest.raises(ServiceUnavailable), translate_transient_errors():
        secrets.read(NAME)
    assert pauses == []
