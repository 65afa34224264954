import json
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from callbacks.errors import ConfigurationError, InvalidSignature, ServiceUnavailable
from tests.unit.kit import Json, Load, Log, Service, Task, context
from tests.unit.test_signatures import BODY, KEY, OTHER_KEY, PLAIN_KEY, SECONDS, headers_of, plain_headers, signature

NO_MATCH = "signature: does not match"
NO_TEXT = "body: is not the text that was signed"


def event(headers: Any, body: Any = BODY, received_at: Any = SECONDS * 1000, **changes: Any) -> Json:
    """Return what the state passes to the task."""
    return {
        "delivery": {
            "body": body,
            "requestId": "8f7e6d5c",
            "receivedAt": received_at,
            "sourceIp": "203.0.113.7",
            "headers": headers,
        },
        "executionName": "execution",
        "startedAt": "2026-11-22T10:00:00.100Z",
        "mode": "enforce",
        "scheme": "standard",
        "header": "x-signature",
        "encoding": "hex",
        "secret": "kbank-test",
        **changes,
    }


@pytest.fixture
def task(load: Load, service: Service) -> Task:
    """The task, and a Secrets Manager that holds KEY."""
    service.keeps_secret({"webhookSecrets": [KEY]})
    return load("verify_signature", AWS_ENDPOINT_URL=service.url)


def refusal(task: Task, event: Json) -> str:
    """Return the message that refuses a callback."""
    with pytest.raises(InvalidSignature) as error:
        task.handler(event, context())
    return str(error.value)


def test_a_callback_that_the_bank_signed_passes(task: Task) -> None:
    assert task.handler(event(headers_of()), context()) == "passed"
    assert refusal(task, event(headers_of(key=OTHER_KEY))) == NO_MATCH


def test_a_plain_signature_passes_in_the_header_that_is_configured(task: Task, service: Service) -> None:
    service.keeps_secret({"webhookSecrets": [PLAIN_KEY]})
    plain = {"scheme": "plain", "encoding": "base64", "header": "X-Signature"}
    assert task.handler(event(plain_headers("base64"), **plain), context()) == "passed"
    assert refusal(task, event(plain_headers("base64"), **{**plain, "header": "x-other"})) == "x-other: is missing"


def test_a_plain_signature_has_no_time_and_never_expires(task: Task, service: Service) -> None:
    service.keeps_secret({"webhookSecrets": [PLAIN_KEY]})
    assert task.handler(event(plain_headers("hex"), received_at=0, scheme="plain"), context()) == "passed"


@pytest.mark.parametrize("scheme", ["", "Standard", "rsa"])
def test_an_unknown_scheme_is_a_configuration_error(task: Task, scheme: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a signature scheme; use standard or plain"):
        task.handler(event(headers_of(), scheme=scheme), context())


# Time


def test_a_redrive_verifies_however_long_ago_the_callback_was_received(task: Task) -> None:
    long_ago = 1577836800
    redriven = event(headers_of(seconds=long_ago), received_at=long_ago * 1000, startedAt="2026-11-22T10:00:00Z")
    assert task.handler(redriven, context()) == "passed"


@pytest.mark.parametrize("received_at", [None, "now", True, [], 1e300, float("nan")], ids=str)
def test_without_a_time_of_receipt_the_execution_start_counts(task: Task, received_at: Any) -> None:
    started = datetime.fromtimestamp(SECONDS, UTC) + timedelta(minutes=5)
    assert (
        task.handler(event(headers_of(), received_at=received_at, startedAt=started.isoformat()), context()) == "passed"
    )
    started += timedelta(milliseconds=1)
    assert "off" in refusal(task, event(headers_of(), received_at=received_at, startedAt=started.isoformat()))


# Deliveries of any shape


@pytest.mark.parametrize("body", [None, 5, True, ["a"], {"a": "b"}, "half \ud83d", "\udc00{}"], ids=ascii)
def test_a_body_that_is_not_text_is_refused(task: Task, body: Any) -> None:
    assert refusal(task, event(headers_of(), body)) == NO_TEXT


def test_a_body_over_the_limit_is_refused_before_the_secret_is_read(task: Task, service: Service) -> None:
    long = "x" * 8_193
    signed = event(headers_of(body=long), long)
    assert refusal(task, signed) == "body: is larger than 8192 bytes"
    cut = event(headers_of())
    cut["delivery"]["bodyLength"] = 9_000
    assert refusal(task, cut) == "body: has 9000 characters, the limit is 8192 bytes of JSON"
    assert service.requests == []
    assert task.handler(event(headers_of(body=long[1:]), long[1:]), context()) == "passed"


@pytest.mark.parametrize("delivery", [None, "text", [], 5, {}], ids=str)
def test_an_input_of_any_shape_is_refused(task: Task, delivery: Any) -> None:
    assert refusal(task, {**event({}), "delivery": delivery}) == NO_TEXT


@pytest.mark.parametrize("headers", [None, [], "webhook-id", 5, {}], ids=str)
def test_a_delivery_without_headers_is_refused(task: Task, headers: Any) -> None:
    assert refusal(task, event(headers)) == "webhook-id: is missing"


# The secret


@pytest.mark.parametrize("key", [KEY, OTHER_KEY])
def test_during_a_rotation_both_keys_pass_with_one_read(task: Task, service: Service, key: str) -> None:
    service.keeps_secret({"webhookSecrets": [OTHER_KEY, KEY]})
    assert task.handler(event(headers_of(key=key)), context()) == "passed"
    assert len(service.requests) == 1


def test_a_key_added_after_the_secret_was_read_is_found_by_one_more_read(
    task: Task, service: Service, later: Callable[[float], None]
) -> None:
    assert task.handler(event(headers_of()), context()) == "passed"
    service.keeps_secret({"webhookSecrets": [OTHER_KEY, KEY]})
    later(30)
    for _ in range(3):
        assert task.handler(event(headers_of(key=OTHER_KEY)), context()) == "passed"
    assert len(service.requests) == 2


def test_a_removed_key_is_refused_after_five_minutes(
    task: Task, service: Service, later: Callable[[float], None]
) -> None:
    assert task.handler(event(headers_of()), context()) == "passed"
    service.keeps_secret({"webhookSecrets": [OTHER_KEY]})
    later(301)
    assert refusal(task, event(headers_of())) == NO_MATCH


def test_forged_callbacks_cause_one_read_in_thirty_seconds(
    task: Task, service: Service, later: Callable[[float], None]
) -> None:
    task.handler(event(headers_of()), context())
    later(30)
    for _ in range(20):
        assert refusal(task, event(headers_of(key=OTHER_KEY))) == NO_MATCH
        later(1)
    assert len(service.requests) == 2
    later(11)
    assert refusal(task, event(headers_of(key=OTHER_KEY))) == NO_MATCH
    assert len(service.requests) == 3


@pytest.mark.parametrize("headers", [{}, {**headers_of(), "webhook-timestamp": "1"}], ids=["unsigned", "old"])
def test_headers_that_cannot_be_right_cost_no_read_of_the_secret(
    task: Task, service: Service, headers: dict[str, str]
) -> None:
    refusal(task, event(headers))
    assert service.requests == []


@pytest.mark.parametrize(
    ("code", "status", "raised"),
    [("ThrottlingException", 400, ServiceUnavailable), ("AccessDeniedException", 400, ClientError)],
)
@pytest.mark.usefixtures("pauses")
def test_an_unreadable_secret_is_an_error_and_not_a_forgery(
    task: Task, service: Service, code: str, status: int, raised: type[Exception]
) -> None:
    service.at.clear()
    service.refuses(code, status)
    with pytest.raises(raised, match=code):
        task.handler(event(headers_of()), context())
    assert task.handler(event(headers_of(), mode="warn"), context()) == f"failed: {raised.__name__}"


@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize(
    ("code", "status", "raised"),
    [("InternalServiceError", 500, ServiceUnavailable), ("AccessDeniedException", 400, ClientError)],
)
def test_while_the_secret_cannot_be_read_again_an_unknown_signature_is_no_forgery(
    task: Task, service: Service, later: Callable[[float], None], code: str, status: int, raised: type[Exception]
) -> None:
    task.handler(event(headers_of()), context())
    later(30)
    service.at.clear()
    service.refuses(code, status)
    with pytest.raises(raised):
        task.handler(event(headers_of(key=OTHER_KEY)), context())
    # Not even where the outage is known, and not asked about again.
    with pytest.raises(ServiceUnavailable):
        task.handler(event(headers_of(key=OTHER_KEY)), context())
    assert task.handler(event(headers_of()), context()) == "passed"


@pytest.mark.parametrize("mistyped", ["hush-hush!", "", None])
def test_a_mistyped_key_stops_no_callback_that_is_signed_with_another_one(
    task: Task, service: Service, later: Callable[[float], None], log: Log, mistyped: Any
) -> None:
    service.keeps_secret({"webhookSecrets": [mistyped, KEY]})
    for _ in range(3):
        assert task.handler(event(headers_of()), context()) == "passed"
    (line,) = log()
    assert (line["message"], line["secret"]) == ("Secret unusable", "kbank-test")
    assert "Key 1 of webhookSecrets is " in line["problem"]
    assert "hush" not in json.dumps(line)
    # As long as the key is there, an alarm has something to count.
    later(301)
    assert task.handler(event(headers_of()), context()) == "passed"
    assert len(log()) == 2


def test_beside_a_mistyped_key_an_unknown_signature_is_no_forgery(
    task: Task, service: Service, later: Callable[[float], None]
) -> None:
    service.keeps_secret({"webhookSecrets": ["hush-hush!", KEY]})
    with pytest.raises(ConfigurationError, match=r"^Key 1 of webhookSecrets is not base64") as error:
        task.handler(event(headers_of(key=OTHER_KEY)), context())
    assert "hush" not in shown_by_lambda(error.value)
    service.keeps_secret({"webhookSecrets": [OTHER_KEY, KEY]})
    later(30)
    assert task.handler(event(headers_of(key=OTHER_KEY)), context()) == "passed"


@pytest.mark.usefixtures("pauses")
def test_a_secrets_manager_that_hangs_is_given_up_in_time(task: Task, service: Service, within: Any) -> None:
    service.hangs()
    with within(1), pytest.raises(ServiceUnavailable):
        task.handler(event(headers_of()), context(400))


# What is shown


def shown_by_lambda(error: BaseException) -> str:
    """Return an error's message and trace, which Lambda logs and hands to Step Functions."""
    return str(error) + "".join(traceback.format_tb(error.__traceback__))


@pytest.mark.parametrize("secret", [{"webhookSecrets": ["hush-hush!"]}, {"webhookSecrets": "hush-hush"}, "hush-hush"])
def test_a_wrong_secret_is_a_configuration_error_that_hides_it(task: Task, service: Service, secret: Any) -> None:
    service.keeps_secret(secret)
    with pytest.raises(ConfigurationError) as error:
        task.handler(event(headers_of()), context())
    assert "hush" not in shown_by_lambda(error.value)
    assert task.handler(event(headers_of(), mode="warn"), context()) == "failed: ConfigurationError"


@pytest.mark.parametrize(
    "delivered",
    [event(headers_of(key=OTHER_KEY)), event(plain_headers("hex", key=OTHER_KEY), scheme="plain")],
    ids=["standard", "plain"],
)
def test_a_refusal_shows_neither_signature_nor_key_nor_body(task: Task, log: Log, delivered: Json) -> None:
    with pytest.raises(InvalidSignature) as error:
        task.handler(delivered, context())
    shown = shown_by_lambda(error.value) + json.dumps(log())
    headers = delivered["delivery"]["headers"]
    right = plain_headers("base64", key=KEY)["x-signature"]
    private = [*headers.values(), signature(), right, KEY, KEY.removeprefix("whsec_"), OTHER_KEY, BODY, "482500007436"]
    assert [text for text in private if text in shown] == []
    assert log()[0]["requestId"] == "8f7e6d5c"
