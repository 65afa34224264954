import json
from collections.abc import Iterator

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.utils import BadDsn

from callbacks.errors import ServiceUnavailable
from tests.unit.kit import Json, Load, Log, Service, Task, Within, reported


@pytest.fixture(autouse=True)
def no_client_is_left_over() -> Iterator[None]:
    """Importing the task initializes Sentry for the whole process."""
    yield
    sentry_sdk.get_global_scope().set_client(None)


def dsn(url: str) -> str:
    return f"{url.replace('http://', 'http://public@')}/42"


@pytest.fixture
def task(load: Load, service: Service) -> Task:
    return load("report_to_sentry", SENTRY_DSN=dsn(service.url))


def all_sent(service: Service) -> list[Json]:
    """The events of all envelopes sent."""
    return [dict(Envelope.deserialize(request.body).get_event() or {}) for request in service.requests]


def sent(service: Service) -> Json:
    """The event of the one envelope sent."""
    (event,) = all_sent(service)
    return event


def test_a_failure_is_one_event_sent_before_the_function_returns(task: Task, service: Service, failure: Json) -> None:
    result = task.handler(failure, None)
    event = sent(service)
    assert result == {"reported": True, "eventId": event["event_id"]}
    (request,) = service.requests
    assert request.path == "/api/42/envelope/"
    assert request.headers["Content-Type"] == "application/x-sentry-envelope"
    assert "sentry_key=public" in request.headers["X-Sentry-Auth"]


def test_an_event_says_what_failed_and_where_to_look(task: Task, service: Service, failure: Json) -> None:
    task.handler(failure, None)
    event = sent(service)
    assert event["level"] == "error"
    assert event["environment"] == "test"
    assert event["exception"] == {"values": [{"type": "ServiceUnavailable", "value": "DynamoDB is <busy>"}]}
    assert event["tags"] == {
        "function": "bankappcallback",
        "environment": "test",
        "step": "SaveCallbackRecord",
        "orderId": "482500007436",
        "chargeId": "pay_bankapp_123",
    }
    assert event["contexts"]["execution"] == {"arn": failure["report"]["executionArn"], "requestId": "8f7e6d5c"}


def test_failures_are_grouped_by_function_step_and_error_whatever_the_order(
    task: Task, service: Service, failure: Json
) -> None:
    task.handler(failure, None)
    failure["event"]["body"] = '{"orderId": "another"}'
    task.remembered.clear()
    task.handler(failure, None)
    events = all_sent(service)
    for event in events:
        assert event["fingerprint"] == ["bankappcallback", "SaveCallbackRecord", "ServiceUnavailable"]
    assert [event["tags"]["orderId"] for event in events] == ["482500007436", "another"]
    assert events[0]["event_id"] != events[1]["event_id"]


def test_a_container_sends_one_event_for_each_kind_and_window(task: Task, service: Service, failure: Json) -> None:
    task.handler(failure, None)
    assert [task.handler(reported(failure, executionArn="another"), None) for _ in range(49)] == [
        {"reported": True, "eventId": None}
    ] * 49
    task.handler(reported(failure, functionName="another"), None)
    assert len(service.requests) == 2


def test_an_event_is_sent_again_after_the_window(task: Task, failure: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    task.handler(failure, None)
    ends_at = task.windows.now() + 15 * 60
    monkeypatch.setattr(task.windows, "now", lambda: ends_at - 2)
    assert task.handler(failure, None)["eventId"] is None
    monkeypatch.setattr(task.windows, "now", lambda: ends_at + 2)
    assert task.handler(failure, None)["eventId"]


def test_without_a_window_each_failure_is_an_event(load: Load, service: Service, failure: Json) -> None:
    task = load("report_to_sentry", SENTRY_DSN=dsn(service.url), ALERT_WINDOW_MINUTES="0")
    assert all(task.handler(failure, None)["eventId"] for _ in range(3))


def test_ids_that_cannot_be_found_are_unknown(task: Task, service: Service, failure: Json) -> None:
    failure["event"]["body"] = "nothing to be found"
    task.handler(failure, None)
    tags = sent(service)["tags"]
    assert (tags["orderId"], tags["chargeId"]) == ("unknown", "unknown")


def test_nothing_of_the_user_the_body_or_the_headers_is_sent(task: Task, service: Service, failure: Json) -> None:
    task.handler(failure, None)
    (request,) = service.requests
    assert b"482500007436" in request.body
    for private in ("b5f392f7", "userId", "Payment successful", "2339", "BankGateway", "203.0.113.7", "stackTrace"):
        assert private.encode() not in request.body
    event = sent(service)
    assert not {"request", "user", "modules", "stacktrace", "threads", "extra"} & event.keys()
    assert event["breadcrumbs"] == {"values": []}


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, "SentryRefusal") for status in (301, 400, 403)),
        *((status, "ServiceUnavailable") for status in (429, 500, 503)),
    ],
)
def test_an_event_that_sentry_rejects_is_sent_once(
    task: Task, service: Service, failure: Json, status: int, error: str, within: Within
) -> None:
    service.answers(status, **{"Retry-After": "60", "Location": f"{service.url}/elsewhere"})
    expected = {"SentryRefusal": task.sentry.SentryRefusal, "ServiceUnavailable": ServiceUnavailable}[error]
    with within(2.5), pytest.raises(expected, match=f"^Sentry answered {status}$"):
        task.handler(failure, None)
    assert len(service.requests) == 1


def test_a_rate_limit_does_not_silence_the_next_event(task: Task, service: Service, failure: Json) -> None:
    # The SDK's own transport drops events while Retry-After lasts.
    service.answers(429, **{"Retry-After": "60", "X-Sentry-Rate-Limits": "60::organization"})
    with pytest.raises(ServiceUnavailable):
        task.handler(failure, None)
    service.answers(200)
    assert task.handler(failure, None)["reported"]
    assert len(service.requests) == 2


def test_a_sentry_that_does_not_answer_is_given_up_in_time(
    task: Task, service: Service, failure: Json, within: Within
) -> None:
    service.hangs()
    with within(2.5), pytest.raises(ServiceUnavailable, match=r"^Sentry cannot be reached: ReadTimeoutError$"):
        task.handler(failure, None)
    assert len(service.requests) == 1


def test_a_sentry_that_cannot_be_reached_is_given_up_in_time(
    load: Load, deaf: str, failure: Json, within: Within
) -> None:
    task = load("report_to_sentry", SENTRY_DSN=dsn(deaf))
    with within(2.5), pytest.raises(ServiceUnavailable, match=r"^Sentry cannot be reached: ConnectTimeoutError$"):
        task.handler(failure, None)


def test_a_refused_connection_is_service_unavailable(load: Load, nobody: str, failure: Json) -> None:
    task = load("report_to_sentry", SENTRY_DSN=dsn(nobody))
    with pytest.raises(ServiceUnavailable, match=r"^Sentry cannot be reached: NewConnectionError$"):
        task.handler(failure, None)


def test_without_a_dsn_sentry_is_off_and_the_report_says_why(load: Load, failure: Json, log: Log) -> None:
    task = load("report_to_sentry", SENTRY_DSN="")
    assert task.handler(failure, None) == {"reported": False, "reason": "SENTRY_DSN is not set"}
    assert not sentry_sdk.is_initialized()
    (line,) = log()
    assert (line["level"], line["executionArn"]) == ("WARNING", failure["report"]["executionArn"])
    assert "b5f392f7" not in json.dumps(line)


@pytest.mark.parametrize(
    "malformed", ["sentry", "https://sentry.example/1", "https://public@sentry.example", "ftp://a@b/1"]
)
def test_a_malformed_dsn_fails_at_import(load: Load, malformed: str) -> None:
    with pytest.raises(BadDsn):
        load("report_to_sentry", SENTRY_DSN=malformed)
