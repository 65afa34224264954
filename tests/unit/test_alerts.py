import time
from dataclasses import replace

import pytest

from callbacks.failure import Failure
from tests.unit.kit import Json, Load, Log, Service, Table, TableOf, Task, items, only

MINUTE = 60


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
    return replace(first, execution_arn="another")


def end_window(table: Table) -> None:
    """End the window of every kind."""
    for item in items(table):
        table.put_item(Item={**item, "windowEndsAt": int(time.time()) - 1})


def test_the_first_failure_of_a_kind_opens_a_window(alerts: Task, table: Table, first: Failure) -> None:
    earliest = int(time.time()) + 15 * MINUTE
    assert alerts.open_window(first) == 0
    item = only(table)
    assert (item["kind"], item["suppressed"]) == ("bankappcallback#SaveCallbackRecord#ServiceUnavailable", 0)
    assert earliest <= item["windowEndsAt"] <= time.time() + 15 * MINUTE


def test_failures_of_one_execution_are_distinguished(alerts: Task, first: Failure) -> None:
    another = replace(first, request_id="another")
    assert (alerts.open_window(first), alerts.open_window(another)) == (0, None)
    # A retry of the one that opened the window.
    assert alerts.open_window(first) is not None


def test_failures_in_the_window_are_counted_and_summed_up_after_it(
    alerts: Task, table: Table, first: Failure, second: Failure
) -> None:
    alerts.open_window(first)
    assert [alerts.open_window(second) for _ in range(3)] == [None, None, None]
    end_window(table)
    assert alerts.open_window(second) == 3
    end_window(table)
    assert alerts.open_window(first) == 0


def test_a_retry_of_the_failure_that_opened_the_window_is_not_suppressed(alerts: Task, first: Failure) -> None:
    assert [alerts.open_window(first) for _ in range(2)] == [0, 0]


def test_each_kind_of_failure_has_its_own_window(alerts: Task, first: Failure, second: Failure) -> None:
    alerts.open_window(first)
    for other in ({"step": "InvokeProcessPaid"}, {"error": "KeyError"}, {"function_name": "another"}):
        assert alerts.open_window(replace(second, **other)) == 0


def test_an_email_that_was_not_sent_returns_its_window_and_its_count(
    alerts: Task, table: Table, first: Failure, second: Failure
) -> None:
    alerts.open_window(first)
    alerts.open_window(second)
    alerts.close_window(first, 7)
    assert alerts.open_window(second) == 8
    # The window belongs to the other failure by now.
    alerts.close_window(first, 7)
    assert alerts.open_window(first) is None
    item = only(table)
    assert item["suppressed"] == 1


@pytest.mark.parametrize(("code", "status"), [("InternalServerError", 500), ("AccessDeniedException", 400)])
def test_nothing_is_suppressed_while_the_count_is_unavailable(
    load: Load, service: Service, first: Failure, pauses: list[float], log: Log, code: str, status: int
) -> None:
    alerts = load("callbacks.alerts", AWS_ENDPOINT_URL=service.url)
    service.refuses(code, status)
    assert alerts.open_window(first) == 0
    assert len(service.requests) == 1
    alerts.close_window(first, 0)
    assert len(service.requests) == 2
    assert pauses == []
    assert [(line["message"], line["error"]) for line in log()] == [
        ("Alerts cannot be counted, the e-mail goes out", "UpdateError"),
        ("The window stays open", "UpdateError"),
    ]


def test_a_failure_that_cannot_be_counted_is_not_suppressed(
    load: Load, service: Service, first: Failure, pauses: list[float]
) -> None:
    alerts = load("callbacks.alerts", AWS_ENDPOINT_URL=service.url)
    service.refuses_once("ConditionalCheckFailedException", 400)
    service.refuses("ThrottlingException", 400)
    assert alerts.open_window(first) == 0
    assert len(service.requests) == 2
    assert pauses == []
