import base64
import json
import traceback

import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from callbacks.errors import ConfigurationError, ServiceUnavailable
from tests.unit.kit import Later, Load, Log, Service, Task, Within, context

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
        secrets.client.create_secret(Name=NAME, SecretString=json.dumps(SECRET))
        assert secrets.read(NAME, context()) == SECRET


def test_a_secret_in_bytes_is_read_as_text(secrets: Task, service: Service) -> None:
    service.answers_at("/", {"SecretBinary": base64.b64encode(json.dumps(SECRET).encode()).decode()})
    assert secrets.read(NAME, context()) == SECRET


def test_the_current_version_of_a_secret_is_requested_by_name(secrets: Task, service: Service) -> None:
    secrets.read(NAME, context())
    (request,) = service.requests
    assert request.headers["X-Amz-Target"] == "secretsmanager.GetSecretValue"
    assert json.loads(request.body) == {"SecretId": NAME}


# Memory


@pytest.mark.parametrize(("seconds", "requests"), [(0, 1), (299, 1), (301, 2)])
def test_a_secret_is_remembered_for_five_minutes(
    secrets: Task, service: Service, later: Later, seconds: float, requests: int
) -> None:
    assert secrets.read(NAME, context()) == SECRET
    service.keeps_secret(NEWER)
    later(seconds)
    assert secrets.read(NAME, context()) == (SECRET if requests == 1 else NEWER)
    assert len(service.requests) == requests


def test_each_secret_is_remembered_and_renewed_on_its_own(secrets: Task, service: Service, later: Later) -> None:
    assert secrets.read(NAME, context()) == SECRET
    service.keeps_secret(NEWER)
    assert secrets.read("kbank-another", context()) == NEWER
    assert secrets.read(NAME, context()) == SECRET
    later(30)
    assert secrets.renew("kbank-another", context()) == NEWER
    assert secrets.renew(NAME, context()) == NEWER


def test_a_renewed_secret_is_current_and_is_remembered(secrets: Task, service: Service, later: Later) -> None:
    secrets.read(NAME, context())
    service.keeps_secret(NEWER)
    later(30)
    assert secrets.renew(NAME, context()) == NEWER
    assert secrets.read(NAME, context()) == NEWER
    assert len(service.requests) == 2


def test_a_secret_that_was_just_read_is_not_renewed(secrets: Task, service: Service, later: Later) -> None:
    assert secrets.read(NAME, context()) == SECRET
    later(29)
    assert secrets.renew(NAME, context()) is None
    assert len(service.requests) == 1


def test_a_deployment_reads_the_current_secret_every_time(secrets: Task, service: Service) -> None:
    assert secrets.read_now(NAME) == SECRET
    service.keeps_secret(NEWER)
    assert secrets.read_now(NAME) == NEWER
    assert len(service.requests) == 2


def test_a_secret_is_renewed_at_most_every_thirty_seconds(secrets: Task, service: Service, later: Later) -> None:
    assert secrets.renew(NAME, context()) == SECRET
    for _ in range(3):
        assert secrets.renew(NAME, context()) is None
        later(9.9)
    assert secrets.renew(NAME, context()) is None
    assert len(service.requests) == 1
    later(0.5)
    assert secrets.renew(NAME, context()) == SECRET
    assert len(service.requests) == 2


def test_after_a_failed_renewal_nobody_knows_for_thirty_seconds_if_a_key_is_new(
    secrets: Task, service: Service, later: Later
) -> None:
    secrets.read(NAME, context())
    later(30)
    service.refuses_once("AccessDeniedException", 400)
    with pytest.raises(ClientError):
        secrets.renew(NAME, context())
    with pytest.raises(ServiceUnavailable, match=r"^The secret kbank-test could not be read again$"):
        secrets.renew(NAME, context())
    assert len(service.requests) == 2
    later(30)
    assert secrets.renew(NAME, context()) == SECRET
    assert secrets.renew(NAME, context()) is None


def test_a_failure_is_not_remembered(secrets: Task, service: Service) -> None:
    service.refuses_once("AccessDeniedException", 400)
    with pytest.raises(ClientError):
        secrets.read(NAME, context())
    assert secrets.read(NAME, context()) == SECRET


# Outages


@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize(("seconds", "is_used"), [(299, True), (301, True), (3599, True), (3601, False)])
def test_a_secret_outlasts_an_hour_in_which_it_cannot_be_read(
    secrets: Task, service: Service, later: Later, seconds: float, is_used: bool
) -> None:
    secrets.read(NAME, context())
    service.at.clear()
    service.refuses("InternalServiceError", 500)
    later(seconds)
    if is_used:
        assert secrets.read(NAME, context()) == SECRET
    else:
        with pytest.raises(ServiceUnavailable):
            secrets.read(NAME, context())


def test_a_secret_outlasts_an_edit_that_is_no_json_and_this_is_logged(
    secrets: Task, service: Service, later: Later, log: Log
) -> None:
    secrets.read(NAME, context())
    service.keeps_secret("hush-hush")
    later(301)
    assert secrets.read(NAME, context()) == SECRET
    (line,) = log()
    assert (line["message"], line["secret"], line["problem"]) == ("Secret unusable", NAME, "ConfigurationError")


def test_during_an_outage_a_secret_is_asked_for_every_thirty_seconds(
    secrets: Task, service: Service, later: Later, pauses: list[float]
) -> None:
    secrets.read(NAME, context())
    later(301)
    service.at.clear()
    service.refuses("ThrottlingException", 400)
    for _ in range(3):
        assert secrets.read(NAME, context()) == SECRET
        with pytest.raises(ServiceUnavailable):
            secrets.renew(NAME, context())
        later(9.9)
    # One attempt, which was repeated.
    assert (len(service.requests), pauses) == (3, [0.1])
    service.keeps_secret(NEWER)
    later(0.5)
    assert secrets.read(NAME, context()) == NEWER


def test_a_secret_that_is_taken_away_is_not_used_any_more(secrets: Task, service: Service, later: Later) -> None:
    secrets.read(NAME, context())
    later(301)
    service.at.clear()
    service.refuses("ResourceNotFoundException", 400)
    for _ in range(2):
        with pytest.raises(ClientError):
            secrets.read(NAME, context())


# Wrong secrets


@pytest.mark.parametrize(
    "text",
    ["hush-hush", "{hush-hush", '{"a": "hush-hush"', '{"a": "hush-hush"}}', "", "[" * 100_000 + "hush-hush"],
    ids=["a word", "a brace", "cut off", "too much", "empty", "nested"],
)
def test_a_secret_that_is_not_json_is_a_configuration_error(secrets: Task, service: Service, text: str) -> None:
    service.keeps_secret(text)
    with pytest.raises(ConfigurationError, match=rf"^The secret {NAME} is not JSON\.$") as error:
        secrets.read(NAME, context())
    assert "hush" not in as_lambda_shows(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def test_a_renewed_secret_follows_the_same_rules(secrets: Task, service: Service) -> None:
    service.keeps_secret("hush-hush")
    with pytest.raises(ConfigurationError, match=rf"^The secret {NAME} is not JSON\.$") as error:
        secrets.renew(NAME, context())
    assert "hush" not in as_lambda_shows(error.value)


def test_a_secret_whose_bytes_are_not_text_is_a_configuration_error(secrets: Task, service: Service) -> None:
    service.answers_at("/", {"SecretBinary": base64.b64encode(b"\xffhush").decode()})
    with pytest.raises(ConfigurationError, match=rf"^The secret {NAME} is not JSON\.$") as error:
        secrets.read(NAME, context())
    assert "hush" not in as_lambda_shows(error.value)


@pytest.mark.parametrize("document", ['"hush-hush"', '["hush-hush"]', "null", "42"])
def test_a_secret_that_is_not_an_object_is_a_configuration_error(
    secrets: Task, service: Service, document: str
) -> None:
    service.keeps_secret(document)
    with pytest.raises(ConfigurationError, match=rf"^The secret {NAME} is not a JSON object\.$") as error:
        secrets.read(NAME, context())
    assert "hush" not in as_lambda_shows(error.value)


# Failures of Secrets Manager


@pytest.mark.parametrize("code", ["ResourceNotFoundException", "AccessDeniedException"])
def test_an_error_that_stays_is_named_and_not_retried(secrets: Task, service: Service, code: str) -> None:
    service.at.clear()
    service.refuses(code, 400)
    with pytest.raises(ClientError, match=code):
        secrets.read(NAME, context())
    assert len(service.requests) == 1


@pytest.mark.parametrize(("code", "status"), [("ThrottlingException", 400), ("InternalServiceError", 500)])
def test_a_read_is_repeated_once_after_an_error_that_passes(
    secrets: Task, service: Service, pauses: list[float], code: str, status: int
) -> None:
    service.refuses_once(code, status)
    assert secrets.read(NAME, context()) == SECRET
    service.at.clear()
    service.refuses(code, status)
    with pytest.raises(ServiceUnavailable):
        secrets.read("kbank-another", context())
    assert len(service.requests) == 4
    assert len(pauses) == 2


# A read takes up to 0.62 seconds, after a pause of 0.1 seconds.
@pytest.mark.parametrize(("milliseconds", "then", "requests"), [(700, 0, 1), (750, 0, 2), (1700, 1, 1), (1750, 1, 2)])
@pytest.mark.usefixtures("pauses")
def test_a_read_is_repeated_only_if_it_and_what_follows_can_end(
    secrets: Task, service: Service, milliseconds: int, then: float, requests: int
) -> None:
    service.at.clear()
    service.refuses("ThrottlingException", 400)
    with pytest.raises(ServiceUnavailable):
        secrets.read(NAME, context(milliseconds), then)
    assert len(service.requests) == requests


def test_a_secrets_manager_that_does_not_answer_is_abandoned_in_time(
    secrets: Task, service: Service, pauses: list[float], within: Within
) -> None:
    service.hangs()
    with within(1), pytest.raises(ServiceUnavailable):
        secrets.read(NAME, context(400))
    assert len(service.requests) == 1
    assert pauses == []


@pytest.mark.parametrize("unreachable", ["deaf", "nobody"])
def test_a_secrets_manager_that_does_not_connect_is_abandoned_in_time(
    load: Load, within: Within, unreachable: str, request: pytest.FixtureRequest
) -> None:
    secrets = load("callbacks.bank_secret", AWS_ENDPOINT_URL=request.getfixturevalue(unreachable))
    with within(1), pytest.raises(ServiceUnavailable):
        secrets.read(NAME, context(400))
