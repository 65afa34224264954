import json
from typing import Any

import pytest

from callbacks.errors import InvalidSelection, ServiceUnavailable
from tests.unit.kit import Json, Load, Put, Service, Table, Task, context, from_now, items

SINCE = {"since": "2020-01-01T10:00:00Z"}
ORDER = {"orderId": "482500007436"}


@pytest.fixture
def task(load: Load, tables: dict[str, str]) -> Task:
    return load("find_failures", ERROR_LOG_TABLE=tables["CallbackErrorLogTable"])


NOTHING = {"failures": [], "isManual": False, "decision": None, "next": None, "page": 1, "hasMore": False}


def event(collected: list[Json] | None = None, page: int = 0, /, **selection: Any) -> Json:
    """The input of the state."""
    return {
        "channel": "BankApp",
        "functionName": "bankappcallback",
        "selection": selection,
        "collected": collected or [],
        "page": page,
        "next": None,
    }


def found(task: Task, **selection: Any) -> list[str]:
    return [failure["requestId"] for failure in task.handler(event(**selection), context())["failures"]]


def at(second: int) -> str:
    return f"2020-01-01T10:00:{second:02}.000Z"


# Selection


def test_nothing_is_found_in_an_empty_error_log(task: Task) -> None:
    assert task.handler(event(), context()) == NOTHING


@pytest.mark.parametrize(
    "selection", [{}, {"requestId": "8f7e6d5c"}, ORDER, SINCE], ids=["due", "request", "order", "since"]
)
def test_a_failure_is_returned_with_its_error_and_its_redrives(task: Task, failed: Put, selection: Json) -> None:
    failed(attempts=2)
    assert task.handler(event(**selection), context()) == {
        "failures": [
            {
                "requestId": "8f7e6d5c",
                "orderId": "482500007436",
                "chargeId": "pay_bankapp_123",
                "occurredAt": "2020-01-01T10:00:01.000Z",
                "step": "InvokeProcessPaid",
                "error": "ServiceUnavailable",
                "status": "open",
                "attempts": 2,
            }
        ],
        "isManual": bool(selection),
        "decision": None,
        "next": None,
        "page": 1,
        "hasMore": False,
    }


def test_a_failure_without_an_order_is_found(task: Task, failed: Put) -> None:
    failed(orderId=None, chargeId=None)
    (failure,) = task.handler(event(), context())["failures"]
    assert (failure["requestId"], failure["orderId"], failure["chargeId"]) == ("8f7e6d5c", None, None)


def test_the_schedule_finds_what_is_due_longest_waiting_first(task: Task, failed: Put) -> None:
    failed(requestId="second", nextAttemptAt=at(2))
    failed(requestId="first", nextAttemptAt=at(1))
    failed(requestId="its claim has expired", status="redriven", nextAttemptAt=at(3))
    failed(requestId="just now", nextAttemptAt=from_now(seconds=-1))
    failed(requestId="not yet", nextAttemptAt=from_now(minutes=1))
    failed(requestId="an operator's", nextAttemptAt=None)
    failed(requestId="another channel's", channel="Another")
    assert found(task) == ["first", "second", "its claim has expired", "just now"]


STATUSES = ["open", "redriven", "given up", "resolved"]


@pytest.mark.parametrize("selection", [ORDER, SINCE], ids=["order", "since"])
def test_an_operator_finds_everything_unresolved_oldest_first(task: Task, failed: Put, selection: Json) -> None:
    failed(requestId="later", occurredAt=at(9), nextAttemptAt=from_now(hours=1))
    for second, status in enumerate(STATUSES):
        failed(requestId=status, status=status, occurredAt=at(second), nextAttemptAt=None)
    assert found(task, **selection) == ["open", "redriven", "given up", "later"]


def test_an_operator_finds_the_failures_of_one_order(task: Task, failed: Put) -> None:
    failed()
    failed(requestId="of another order", orderId="another")
    failed(requestId="of no order", orderId=None)
    assert found(task, **ORDER) == ["8f7e6d5c"]
    assert found(task, orderId="unknown") == []


def test_an_operator_finds_the_failures_since_a_time_inclusive(task: Task, failed: Put) -> None:
    for second in (1, 2, 3):
        failed(requestId=str(second), occurredAt=at(second))
    failed(requestId="of another function", functionName="another", occurredAt=at(3))
    assert found(task, since="2020-01-01T17:00:02+07:00") == ["2", "3"]
    assert found(task, since="2020-01-01T10:00:04Z") == []


@pytest.mark.parametrize(
    ("status", "is_found"), [("open", True), ("redriven", True), ("given up", True), ("resolved", False)]
)
def test_an_operator_finds_one_delivery_unless_it_is_resolved(
    task: Task, failed: Put, status: str, is_found: bool
) -> None:
    failed(requestId="another")
    failed(status=status, nextAttemptAt=None)
    assert found(task, requestId="8f7e6d5c") == ["8f7e6d5c"] * is_found


@pytest.mark.parametrize("status", STATUSES)
def test_an_operator_who_decides_finds_the_delivery_whatever_its_status(task: Task, failed: Put, status: str) -> None:
    decision = {"id": "decision-1", "action": "again", "by": "arn", "reason": "no trace"}
    failed(status=status, nextAttemptAt=None)
    answer = task.handler(event(requestId="8f7e6d5c", decision=decision), context())
    (failure,) = answer["failures"]
    assert (failure["status"], failure["cause"], answer["decision"]) == (status, "Lambda is busy", decision)


def test_a_delivery_that_never_failed_is_not_found(task: Task) -> None:
    assert task.handler(event(requestId="8f7e6d5c"), context()) == NOTHING | {"isManual": True}


def test_a_dry_run_finds_the_same_failures(task: Task, failed: Put) -> None:
    failed()
    assert task.handler(event(dryRun=True), context()) == task.handler(event(), context())


def test_finding_changes_nothing(task: Task, error_log: Table, failed: Put) -> None:
    before = failed()
    for selection in ({}, {"requestId": "8f7e6d5c"}, ORDER, SINCE):
        assert found(task, **selection) == ["8f7e6d5c"]
    assert items(error_log) == [before]


# Collected failures


def test_collected_failures_are_found_before_the_index_has_them(task: Task, failed: Put) -> None:
    failed()
    collected = [{"requestId": "lost", "orderId": "1"}, {"requestId": "lost, too", "orderId": "2"}]
    failures = task.handler(event(collected), context())["failures"]
    assert [failure["requestId"] for failure in failures] == ["8f7e6d5c", "lost", "lost, too"]
    assert failures[1:] == collected


def test_a_collected_failure_in_the_index_is_found_once_in_full(task: Task, failed: Put) -> None:
    failed()
    (failure,) = task.handler(event([{"requestId": "8f7e6d5c", "orderId": "482500007436"}]), context())["failures"]
    assert failure["step"] == "InvokeProcessPaid"


# Pages


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 100])
@pytest.mark.parametrize("selection", [{}, ORDER, SINCE], ids=["due", "order", "since"])
def test_paging_finds_each_failure_once_and_in_order(task: Task, failed: Put, selection: Json, limit: int) -> None:
    # Resolved failures in between leave pages that must be filled up.
    statuses = ["resolved", "open", "given up", "resolved", "open", "open", "resolved", "redriven", "resolved"]
    for second, status in enumerate(statuses):
        due = None if status in {"resolved", "given up"} else at(second)
        failed(requestId=f"request-{second}", status=status, occurredAt=at(second), nextAttemptAt=due)
    wanted = {"open", "redriven"} if not selection else {"open", "redriven", "given up"}
    expected = [f"request-{second}" for second, status in enumerate(statuses) if status in wanted]
    pages: list[str] = []
    more: Json = {}
    for _ in range(len(statuses) + 1):
        answer = task.handler(event(**selection, limit=limit, **more), context())
        assert len(answer["failures"]) <= limit
        pages += [failure["requestId"] for failure in answer["failures"]]
        if answer["next"] is None:
            break
        # As redrive.py does, from one execution's output to the next one's input.
        more = {"after": json.loads(json.dumps(answer["next"]))}
    assert answer["next"] is None
    assert pages == expected


def test_collected_failures_belong_to_the_first_page(task: Task) -> None:
    assert task.handler(event([{"requestId": "lost", "orderId": "1"}], 1), context())["failures"] == []


@pytest.mark.parametrize(
    ("selection", "page", "has_more"),
    [({}, 0, True), ({}, 1, False), (ORDER, 0, False), (SINCE, 0, False)],
)
def test_only_a_scheduled_run_continues_and_for_one_more_page(
    task: Task, failed: Put, selection: Json, page: int, has_more: bool
) -> None:
    for second in range(3):
        failed(requestId=str(second), occurredAt=at(second))
    answer = task.handler(event([], page, limit=2, **selection), context())
    assert (answer["page"], answer["hasMore"]) == (page + 1, has_more)
    assert len(answer["failures"]) == 2
    assert task.handler(event([], page, limit=5, **selection), context())["hasMore"] is False


def test_the_second_page_starts_where_the_first_ends(task: Task, failed: Put) -> None:
    for second in range(3):
        failed(requestId=str(second), nextAttemptAt=at(second))
    first = task.handler(event(limit=2), context())
    second_page = task.handler({**event([], 1, limit=2), "next": first["next"]}, context())
    assert [failure["requestId"] for failure in second_page["failures"]] == ["2"]


def test_every_page_but_the_last_is_full(task: Task, failed: Put) -> None:
    for second, status in enumerate(["resolved", "open", "resolved", "open", "open"]):
        failed(requestId=str(second), status=status, occurredAt=at(second))
    answer = task.handler(event(**SINCE, limit=2), context())
    assert [failure["requestId"] for failure in answer["failures"]] == ["1", "3"]
    assert found(task, **SINCE, limit=2, after=answer["next"]) == ["4"]


# Errors


@pytest.mark.parametrize("selection", [{"requestid": "8f7e6d5c"}, {"since": "yesterday"}, {"limit": 0}], ids=str)
def test_a_misspelt_selection_is_refused(task: Task, failed: Put, selection: Json) -> None:
    failed()
    with pytest.raises(InvalidSelection):
        task.handler(event(**selection), context())


@pytest.mark.parametrize("selection", [None, [], "due"], ids=str)
def test_an_invalid_input_is_refused(task: Task, selection: Any) -> None:
    with pytest.raises(InvalidSelection):
        task.handler({**event(), "selection": selection}, context())


def test_an_error_on_a_later_page_does_not_end_the_list(load: Load, service: Service, pauses: list[float]) -> None:
    task = load("find_failures", AWS_ENDPOINT_URL=service.url)
    page = {"Items": [], "Count": 0, "ScannedCount": 1, "LastEvaluatedKey": {"requestId": {"S": "1"}}}
    service.first.append((200, json.dumps(page).encode(), {}))
    service.refuses("ThrottlingException", 400)
    with pytest.raises(ServiceUnavailable):
        task.handler(event(**SINCE), context())
    assert len(service.requests) == 3
    assert len(pauses) == 1
