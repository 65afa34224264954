import time
from typing import Any
from urllib.parse import parse_qsl

import pytest
import sentry_sdk

from callbacks.errors import ServiceUnavailable
from tests.unit.kit import Json, Load, Log, Put, Service, Table, TableOf, Task, items
from tests.unit.test_report_to_sentry import all_sent, dsn
from tests.unit.test_send_error_email import SENT, refusal

EVENT = {"channel": "BankApp"}
SINCE, LAST = "2026-11-22T10:00:00.000Z", "2026-11-22T10:14:00.000Z"
KIND = {"functionName": "bankappcallback", "step": "SaveCallbackRecord", "error": "ServiceUnavailable"}


@pytest.fixture(autouse=True)
def no_client_is_left_over() -> Any:
    """Importing the task initializes Sentry for the whole process."""
    yield
    sentry_sdk.get_global_scope().set_client(None)


@pytest.fixture
def table(table_of: TableOf) -> Table:
    return table_of("CallbackAlertTable")


@pytest.fixture
def counted(table: Table) -> Put:
    """Put a count of a window that has ended."""

    def put(**changes: Any) -> Json:
        item = {
            "kind": "bankappcallback#SaveCallbackRecord#ServiceUnavailable#1#BankApp#0",
            "windowEndsAt": 1,
            "channel": "BankApp",
            **KIND,
            "failures": 20,
            "since": SINCE,
            "lastAt": LAST,
            "lastOrder": "482500007436",
            "lastRequest": "8f7e6d5c",
            "expiration": int(time.time()) + 1000,
            **changes,
        }
        table.put_item(Item=item)
        return item

    return put


@pytest.fixture
def task(load: Load, tables: dict[str, str], service: Service) -> Task:
    """The task; SES and Sentry are one service, which answers both."""
    service.answers_at("/", SENT)
    ours = {"ALERT_TABLE": tables["CallbackAlertTable"], "AWS_ENDPOINT_URL_SES": service.url}
    return load("report_suppressed", **ours, SENTRY_DSN=dsn(service.url))


def sent_emails(service: Service) -> list[Json]:
    return [dict(parse_qsl(request.body.decode())) for request in service.requests if request.path == "/"]


def sent_events(service: Service) -> list[Json]:
    service.requests[:] = [request for request in service.requests if request.path != "/"]
    return all_sent(service)


def test_the_shards_of_a_kind_are_added_up_and_forgotten(
    task: Task, table: Table, counted: Put, service: Service
) -> None:
    counted()
    counted(kind="other shard", failures=5, since="2026-11-22T09:59:00.000Z", lastAt="2026-11-22T10:14:59.000Z")
    counted(kind="another kind", error="<KeyError>", failures=1, lastOrder="example.com")
    assert task.handler(EVENT, None) == {"failures": 26}
    (email,) = sent_emails(service)
    assert email["Message.Subject.Data"] == "[test] BankApp callback: 26 more failed"
    headings, *rows = (line.split() for line in email["Message.Body.Text.Data"].splitlines()[2:5])
    assert headings == ["Error", "Step", "Failures", "Since", "Last", "Order", "Request"]
    since, last = "2026-11-22T09:59:00.000Z", "2026-11-22T10:14:59.000Z"
    assert rows == [
        ["<KeyError>", KIND["step"], "1", "more", SINCE, LAST, r'"example\u002ecom"', "8f7e6d5c"],
        ["ServiceUnavailable", KIND["step"], "25", "more", since, last, "482500007436", "8f7e6d5c"],
    ]
    assert "<td>&lt;KeyError&gt;</td>" in email["Message.Body.Html.Data"]
    _, event = sent_events(service)
    assert event["fingerprint"] == list(KIND.values())
    assert event["exception"]["values"] == [
        {
            "type": "ServiceUnavailable",
            "value": "25 more since 2026-11-22T09:59:00.000Z, the last one at 2026-11-22T10:14:59.000Z",
        }
    ]
    assert event["tags"]["orderId"] == "482500007436"
    assert event["contexts"]["execution"] == {"requestId": "8f7e6d5c"}
    assert items(table) == []


@pytest.mark.parametrize(
    "change", [{"windowEndsAt": int(time.time()) + 1000}, {"channel": "Card"}], ids=["open window", "other channel"]
)
def test_other_counts_and_windows_stay(task: Task, table: Table, counted: Put, service: Service, change: Json) -> None:
    counted(**change)
    table.put_item(Item={"kind": "a window", "windowEndsAt": 1, "openedBy": "o", "expiration": 1})
    assert task.handler(EVENT, None) == {"failures": 0}
    assert service.requests == []
    assert len(items(table)) == 2


def test_an_email_that_fails_keeps_the_count_for_the_next_run(
    task: Task, table: Table, counted: Put, service: Service, log: Log
) -> None:
    counted()
    service.answers_at("/", refusal("Throttling"), 400)
    with pytest.raises(ServiceUnavailable):
        task.handler(EVENT, None)
    assert len(sent_events(service)) == 1
    assert [(item["emailed"], item["sentToSentry"]) for item in items(table)] == [(0, 20)]
    assert [line["report"] for line in log()] == ["_email"]
    service.answers_at("/", SENT)
    task.handler(EVENT, None)
    assert len(sent_emails(service)) == len(service.requests) - 1 == 1
    assert items(table) == []


def test_an_event_that_fails_keeps_the_count_for_the_next_run(
    task: Task, table: Table, counted: Put, service: Service
) -> None:
    counted()
    service.answers(503)
    with pytest.raises(ServiceUnavailable):
        task.handler(EVENT, None)
    assert [(item["emailed"], item["sentToSentry"]) for item in items(table)] == [(20, 0)]
    service.answers(200)
    service.requests.clear()
    task.handler(EVENT, None)
    assert sent_emails(service) == []
    assert len(sent_events(service)) == 1
    assert items(table) == []


def test_without_sentry_the_email_is_enough(load: Load, table: Table, counted: Put, service: Service) -> None:
    service.answers_at("/", SENT)
    task = load("report_suppressed", AWS_ENDPOINT_URL_SES=service.url, SENTRY_DSN="")
    counted()
    assert task.handler(EVENT, None) == {"failures": 20}
    assert len(service.requests) == 1
    assert items(table) == []


def test_a_run_takes_no_more_counts_than_it_has_time_for(
    task: Task, table: Table, counted: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "MAX_COUNTS", 2)
    for number in range(3):
        counted(kind=f"shard {number}")
    assert task.handler(EVENT, None) == {"failures": 40}
    assert task.handler(EVENT, None) == {"failures": 20}
    assert items(table) == []


def test_a_count_that_another_run_has_forgotten_stays_forgotten(
    task: Task, table: Table, counted: Put, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = counted()
    service.answers(503)

    def forget(_: object) -> None:
        table.delete_item(Key={"kind": item["kind"]})

    monkeypatch.setattr(task.emails, "send_list", lambda *_: forget(_))
    with pytest.raises(ServiceUnavailable):
        task.handler(EVENT, None)
    assert items(table) == []
