import json
import time
from collections import Counter
from dataclasses import replace

import pytest

from callbacks import queues
from callbacks.failure import Failure
from tests.unit.kit import Json, Load, Log, Service, Table, TableOf, Task, items, only, operations

MINUTE = 60
DAY = 24 * 60 * MINUTE
# What a partition key of DynamoDB takes, and what Lambda starts of a function.
WRITE_UNITS_PER_SECOND = 1000
CONTAINERS_PER_SECOND = 100
BURST_PER_SECOND = 1000
# The test makes a tenth of the burst.
SCALE = 10


@pytest.fixture
def alerts(load: Load, tables: dict[str, str]) -> Task:
    return load("callbacks.alerts", ALERT_TABLE=tables["CallbackAlertTable"])


@pytest.fixture
def table(table_of: TableOf) -> Table:
    return table_of("CallbackAlertTable")


@pytest.fixture
def first(failure: Json) -> Failure:
    return Failure.from_event(failure)


@pytest.fixture
def second(first: Failure) -> Failure:
    """Another failure of the same kind."""
    return replace(
        first, execution_arn="another", order_id="order-2", request_id="request-2", occurred_at="2026-11-22T11"
    )


def counts(table: Table) -> list[Json]:
    """Return the items that count failures."""
    return [item for item in items(table) if "failures" in item]


def another_container(alerts: Task) -> None:
    alerts.remembered.clear()
    alerts.uncounted.clear()


def end_window(alerts: Task, table: Table) -> None:
    """End the window of every kind, also as the container remembers it."""
    another_container(alerts)
    for item in items(table):
        table.put_item(Item={**item, "windowEndsAt": int(time.time()) - 1})


def test_the_first_failure_of_a_kind_opens_a_window(alerts: Task, table: Table, first: Failure) -> None:
    earliest = int(time.time()) + 15 * MINUTE
    assert alerts.open_window(first)
    item = only(table)
    assert item["kind"] == "bankappcallback#SaveCallbackRecord#ServiceUnavailable"
    assert earliest <= item["windowEndsAt"] <= int(time.time()) + 15 * MINUTE
    assert item["expiration"] == item["windowEndsAt"] + 90 * DAY


def test_failures_in_the_window_are_counted(alerts: Task, table: Table, first: Failure, second: Failure) -> None:
    alerts.open_window(first)
    third = replace(second, order_id=None, occurred_at="2026-11-22T12")
    assert not alerts.open_window(second)
    assert not alerts.open_window(third)
    (count,) = counts(table)
    shard = queues.shard_of("BankApp", "request-2")
    assert count.pop("kind") == f"bankappcallback#SaveCallbackRecord#ServiceUnavailable#{count['windowEndsAt']}#{shard}"
    assert count.pop("expiration") == count.pop("windowEndsAt") + 90 * DAY
    assert count == {
        "channel": "BankApp",
        "functionName": "bankappcallback",
        "step": "SaveCallbackRecord",
        "error": "ServiceUnavailable",
        "failures": 2,
        "since": "2026-11-22T11",
        "lastAt": "2026-11-22T12",
        "lastOrder": "unknown",
        "lastRequest": "request-2",
    }


def test_a_container_learns_of_a_window_that_another_opened(
    alerts: Task, table: Table, first: Failure, second: Failure
) -> None:
    alerts.open_window(first)
    another_container(alerts)
    assert not alerts.open_window(second)
    assert alerts.remembered.find(first.kind).ends_at == counts(table)[0]["windowEndsAt"]


def test_the_next_window_begins_after_the_end_of_the_last(
    alerts: Task, table: Table, first: Failure, second: Failure
) -> None:
    alerts.open_window(first)
    end_window(alerts, table)
    assert alerts.open_window(second)
    assert not alerts.open_window(first)


def test_a_container_forgets_a_window_that_has_ended(
    alerts: Task, first: Failure, second: Failure, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts.open_window(first)
    ends_at = int(time.time()) + 15 * MINUTE
    with monkeypatch.context() as later:
        later.setattr(alerts.windows, "now", lambda: ends_at - 2)
        assert not alerts.open_window(second)
        later.setattr(alerts.windows, "now", lambda: ends_at + 2)
        assert alerts.open_window(second)


def test_without_a_window_each_failure_is_emailed(load: Load, tables: dict[str, str], first: Failure) -> None:
    alerts = load("callbacks.alerts", ALERT_TABLE=tables["CallbackAlertTable"], ALERT_WINDOW_MINUTES="0")
    assert all(alerts.open_window(replace(first, request_id=str(number))) for number in range(3))


def test_a_retry_opens_the_window_again_if_its_container_was_killed(alerts: Task, table: Table, first: Failure) -> None:
    assert alerts.open_window(first)
    another_container(alerts)
    assert alerts.open_window(first)
    assert counts(table) == []


def test_a_retry_in_a_container_that_sent_the_email_sends_and_counts_nothing(
    alerts: Task, table: Table, first: Failure
) -> None:
    assert [alerts.open_window(first) for _ in range(2)] == [True, False]
    assert counts(table) == []


def test_failures_of_one_execution_are_distinguished(alerts: Task, first: Failure) -> None:
    assert [alerts.open_window(replace(first, request_id=name)) for name in ("one", "another")] == [True, False]


def test_each_kind_of_failure_has_its_own_window(alerts: Task, first: Failure, second: Failure) -> None:
    alerts.open_window(first)
    others: list[Json] = [{"step": "InvokeProcessPaid"}, {"error": "KeyError"}, {"function_name": "another"}]
    for other in others:
        assert alerts.open_window(replace(second, **other))


def test_an_email_that_was_not_sent_returns_its_window(alerts: Task, first: Failure, second: Failure) -> None:
    alerts.open_window(first)
    alerts.close_window(first)
    assert alerts.open_window(second)
    another_container(alerts)
    # The window belongs to the other failure by now.
    alerts.close_window(first)
    assert not alerts.open_window(first)


@pytest.mark.parametrize(("code", "status"), [("InternalServerError", 500), ("AccessDeniedException", 400)])
def test_each_container_opens_a_window_of_its_own_while_the_table_is_down(
    load: Load, service: Service, first: Failure, second: Failure, pauses: list[float], log: Log, code: str, status: int
) -> None:
    alerts = load("callbacks.alerts", AWS_ENDPOINT_URL=service.url)
    service.refuses(code, status)
    assert alerts.open_window(first)
    assert [alerts.open_window(second) for _ in range(29)] == [False] * 29
    assert alerts.uncounted[first.kind] == 29
    assert len(service.requests) == 30
    another_container(alerts)
    assert alerts.open_window(second)
    alerts.close_window(second)
    assert alerts.open_window(second)
    assert pauses == []
    messages = Counter(line["message"] for line in log())
    assert messages == {
        "The alert table is down, the e-mail goes out": 3,
        "A failure is not counted yet": 29,
        "The window stays open": 1,
    }


def test_a_window_that_cannot_be_read_does_not_suppress_the_email(
    load: Load, service: Service, first: Failure, pauses: list[float]
) -> None:
    alerts = load("callbacks.alerts", AWS_ENDPOINT_URL=service.url)
    service.refuses_once("ConditionalCheckFailedException", 400)
    service.refuses("ThrottlingException", 400)
    assert alerts.open_window(first)
    assert operations(service) == ["UpdateItem", "GetItem"]
    assert pauses == []


def test_what_could_not_be_counted_is_counted_with_the_next(
    alerts: Task, table: Table, first: Failure, second: Failure, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts.open_window(first)
    with monkeypatch.context() as broken:
        broken.setattr(alerts, "Alerts", None)
        assert not any(alerts.open_window(second) for _ in range(3))
    assert not alerts.open_window(second)
    assert not alerts.open_window(second)
    assert [count["failures"] for count in counts(table)] == [5]


def test_no_key_takes_more_writes_than_dynamodb_allows(load: Load, service: Service, first: Failure) -> None:
    """A tenth of a second of 1,000 failures of one kind, in 100 containers; another one has opened the window."""
    alerts = load("callbacks.alerts", AWS_ENDPOINT_URL=service.url)
    window = {"windowEndsAt": {"N": str(int(time.time()) + MINUTE)}, "openedBy": {"S": "o"}, "expiration": {"N": "1"}}
    found = json.dumps({"Item": {"kind": {"S": "k"}, **window}}).encode()
    for number in range(BURST_PER_SECOND // SCALE):
        if number % (BURST_PER_SECOND // CONTAINERS_PER_SECOND) == 0:
            another_container(alerts)
            service.refuses_once("ConditionalCheckFailedException", 400)
            service.answers_once(200, found)
        service.answers(200, b'{"Attributes": {}}')
        assert not alerts.open_window(replace(first, request_id=f"request-{number}"))
    assert alerts.uncounted == {}
    bodies = [json.loads(request.body) for request in service.requests if "Update" in request.headers["X-Amz-Target"]]
    # An item of up to 1 KB takes one unit; a condition that fails takes as much.
    assert max(len(json.dumps(body)) for body in bodies) < 1024 * 2
    writes = Counter(body["Key"]["kind"]["S"] for body in bodies)
    assert sum(writes.values()) * SCALE == BURST_PER_SECOND + CONTAINERS_PER_SECOND
    assert max(writes.values()) * SCALE < WRITE_UNITS_PER_SECOND / 4
