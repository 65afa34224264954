import json
from typing import Any

import pytest

from callbacks.errors import InvalidSelection, ServiceUnavailable
from callbacks.queues import Lane, queues_of, shard_of
from tests.unit.kit import Json, Load, Log, Put, Service, Table, Task, context, from_now, items

SINCE = {"since": "2020-01-01T10:00:00Z"}
ORDER = {"orderId": "482500007436"}
# Request ids whose failures share a queue.
NEIGHBORS = [f"request-{number}" for number in range(500) if shard_of("BankApp", f"request-{number}") == "BankApp#0"]


@pytest.fixture
def task(load: Load, tables: dict[str, str]) -> Task:
    return load("find_failures", ERROR_LOG_TABLE=tables["CallbackErrorLogTable"])


def event(collected: list[str] | None = None, /, **selection: Any) -> Json:
    """The input of the state before the first page."""
    return {
        "channel": "BankApp",
        "selection": selection,
        "state": {"collected": {"requestIds": collected or []}},
        "startedAt": from_now(),
    }


def after_page(event: Json, *results: Json, **found: Any) -> Json:
    """The input of the state after a page."""
    before = {"tally": {"redriven": 0, "failed": 0}}
    return event | {"state": event["state"] | {"found": before | found, "results": list(results)}}


def found(task: Task, collected: list[str] | None = None, /, **selection: Any) -> list[str]:
    return [failure["requestId"] for failure in task.handler(event(collected, **selection), context())["failures"]]


def page_of(task: Task, size: int) -> list[str]:
    """Return the request ids of a scheduled page of the size that follows from the pace, 5, 10, 20 or 40."""
    places = size // 5
    result = {"requestId": "earlier", "status": "unconfirmed"}
    answer = task.handler(after_page(event(), result, concurrency=places), context())
    assert answer["concurrency"] == places
    return [failure["requestId"] for failure in answer["failures"]]


def at(second: int) -> str:
    return f"2020-01-01T10:{second // 60:02}:{second % 60:02}.000Z"


# Selection


NOTHING = {
    "failures": [],
    "isManual": False,
    "decision": None,
    "next": None,
    "concurrency": 8,
    "tally": {"redriven": 0, "failed": 0},
    "isHopeless": False,
}
SUMMARY = {
    "requestId": "8f7e6d5c",
    "orderId": "482500007436",
    "chargeId": "pay_bankapp_123",
    "occurredAt": "2020-01-01T10:00:01.000Z",
    "step": "InvokeProcessPaid",
    "error": "ServiceUnavailable",
    "status": "open",
    "attempts": 2,
}


def test_nothing_is_found_in_an_empty_error_log(task: Task) -> None:
    assert task.handler(event(), context()) == NOTHING


@pytest.mark.parametrize(
    ("selection", "failure", "is_manual"),
    [
        # The redrives of a page need no more, and a state holds up to 256 KiB.
        ({}, {"requestId": "8f7e6d5c"}, False),
        ({"dryRun": True}, SUMMARY, False),
        ({"requestId": "8f7e6d5c"}, SUMMARY, True),
        (ORDER, SUMMARY, True),
        (SINCE, SUMMARY, True),
    ],
    ids=["due", "due, dry run", "request", "order", "since"],
)
def test_a_failure_is_listed_in_full_for_an_operator_and_in_a_dry_run(
    task: Task, failed: Put, selection: Json, failure: Json, is_manual: bool
) -> None:
    failed(attempts=2)
    answer = task.handler(event(**selection), context())
    assert answer == NOTHING | {"failures": [failure], "isManual": is_manual}


def test_a_failure_without_an_order_is_found(task: Task, failed: Put) -> None:
    failed(orderId=None, chargeId=None)
    (failure,) = task.handler(event(dryRun=True), context())["failures"]
    assert (failure["requestId"], failure["orderId"], failure["chargeId"]) == ("8f7e6d5c", None, None)


def test_the_schedule_finds_what_is_due_in_the_automatic_lanes(task: Task, failed: Put) -> None:
    failed(requestId="due")
    failed(requestId="its claim has expired", status="redriven")
    failed(Lane.UNCONFIRMED, requestId="unconfirmed", lane="unconfirmed")
    failed(requestId="just now", queuedAt=from_now(seconds=-1))
    failed(requestId="not yet", queuedAt=from_now(minutes=1))
    failed(Lane.UNCONFIRMED, requestId="unconfirmed, not yet", queuedAt=from_now(minutes=1))
    failed(Lane.OPERATOR, requestId="an operator's")
    failed(Lane.GIVEN_UP, requestId="given up", status="given up")
    failed(None, requestId="resolved", status="resolved")
    failed(requestId="another channel's", channel="Another")
    assert sorted(found(task)) == ["due", "its claim has expired", "just now", "unconfirmed"]


STATUSES = {"open": Lane.OPERATOR, "redriven": Lane.HEALING, "given up": Lane.GIVEN_UP, "resolved": None}


@pytest.mark.parametrize("selection", [ORDER, SINCE], ids=["order", "since"])
def test_an_operator_finds_everything_unresolved_in_any_lane(task: Task, failed: Put, selection: Json) -> None:
    failed(requestId="later", queuedAt=from_now(hours=1))
    failed(Lane.UNCONFIRMED, requestId="unconfirmed")
    for status, lane in STATUSES.items():
        failed(lane, requestId=status, status=status)
    assert sorted(found(task, **selection)) == ["given up", "later", "open", "redriven", "unconfirmed"]


def test_an_operator_finds_the_failures_of_one_order_oldest_first(task: Task, failed: Put) -> None:
    failed(requestId="second", occurredAt=at(2))
    failed(requestId="first", occurredAt=at(1))
    failed(requestId="of another order", orderId="another")
    failed(requestId="of no order", orderId=None)
    assert found(task, **ORDER) == ["first", "second"]
    assert found(task, orderId="unknown") == []


def test_refused_callbacks_are_found_since_a_time_only_on_request(task: Task, failed: Put) -> None:
    failed(requestId="refused", error="InvalidSignature")
    failed(requestId="failed")
    assert found(task, **SINCE) == ["failed"]
    assert sorted(found(task, **SINCE, refused=True)) == ["failed", "refused"]


def test_an_operator_finds_the_failures_since_a_time_inclusive(task: Task, failed: Put) -> None:
    for second in (1, 2, 3):
        failed(requestId=str(second), occurredAt=at(second))
    failed(requestId="of another channel", channel="Another", occurredAt=at(3))
    assert sorted(found(task, since="2020-01-01T17:00:02+07:00")) == ["2", "3"]
    assert found(task, since="2020-01-01T10:00:04Z") == []


@pytest.mark.parametrize(
    ("status", "is_found"), [("open", True), ("redriven", True), ("given up", True), ("resolved", False)]
)
def test_an_operator_finds_one_delivery_unless_it_is_resolved(
    task: Task, failed: Put, status: str, is_found: bool
) -> None:
    failed(requestId="another")
    failed(STATUSES[status], status=status)
    assert found(task, requestId="8f7e6d5c") == ["8f7e6d5c"] * is_found


@pytest.mark.parametrize("status", STATUSES)
def test_an_operator_who_decides_finds_the_delivery_whatever_its_status(task: Task, failed: Put, status: str) -> None:
    decision = {"id": "decision-1", "action": "again", "by": "arn", "reason": "no trace"}
    failed(STATUSES[status], status=status)
    answer = task.handler(event(requestId="8f7e6d5c", decision=decision), context())
    (failure,) = answer["failures"]
    assert (failure["status"], failure["cause"], answer["decision"]) == (status, "Lambda is busy", decision)


def test_a_delivery_that_never_failed_is_not_found(task: Task) -> None:
    assert task.handler(event(requestId="8f7e6d5c"), context()) == NOTHING | {"isManual": True}


def test_finding_changes_nothing(task: Task, error_log: Table, failed: Put) -> None:
    before = failed()
    for selection in ({}, {"requestId": "8f7e6d5c"}, ORDER, SINCE):
        assert found(task, **selection) == ["8f7e6d5c"]
    assert items(error_log) == [before]


# Collected failures


@pytest.mark.parametrize("selection", [{}, {"dryRun": True}, ORDER, SINCE], ids=str)
def test_collected_failures_are_found_before_the_index_has_them(task: Task, failed: Put, selection: Json) -> None:
    failed()
    assert found(task, ["lost", "lost, too"], **selection) == ["8f7e6d5c", "lost", "lost, too"]


def test_a_collected_failure_in_the_index_is_found_once_in_full(task: Task, failed: Put) -> None:
    failed()
    (failure,) = task.handler(event(["8f7e6d5c"], dryRun=True), context())["failures"]
    assert failure["step"] == "InvokeProcessPaid"


def test_collected_failures_only_fill_a_page_up(task: Task, failed: Put) -> None:
    failed()
    lost = [f"lost {number}" for number in range(50)]
    # The others are due, and a later page finds them in the index.
    assert found(task, lost) == ["8f7e6d5c", *lost[:39]]
    assert found(task, lost, **SINCE) == ["8f7e6d5c", *lost]


# The pages of a run


def test_a_page_has_the_oldest_some_of_the_newest_and_a_few_unconfirmed(task: Task, failed: Put) -> None:
    numbers = range(160)
    for number in numbers:
        failed(requestId=f"request-{number}", queuedAt=at(number))
        failed(Lane.UNCONFIRMED, requestId=f"unconfirmed-{number}", queuedAt=at(number))
    page = page_of(task, 40)
    assert len(page) == 40
    unconfirmed = [request_id for request_id in page if request_id.startswith("unconfirmed")]
    known = sorted(int(request_id.removeprefix("request-")) for request_id in page if request_id not in unconfirmed)
    assert len(unconfirmed) == 4
    # Each shard adds the same number, so a few younger ones may be among the oldest.
    assert (known[0], known[-1]) == (0, 159)
    assert known[27] < 80 <= known[28]
    assert min(int(request_id.removeprefix("unconfirmed-")) for request_id in unconfirmed) >= 80


def test_a_small_page_has_the_first_of_all_queues(task: Task, failed: Put) -> None:
    for number in range(40):
        failed(requestId=f"request-{number}", queuedAt=at(number))
        failed(Lane.UNCONFIRMED, requestId=f"unconfirmed-{number}", queuedAt=at(number))
    # Each queue has one of them at most, so its first may be younger than another's second.
    first = {shard_of("BankApp", f"request-{number}"): number for number in reversed(range(40))}
    oldest = sorted(first.values())[:3]
    assert page_of(task, 5) == ["unconfirmed-39", "request-39", *(f"request-{number}" for number in oldest)]


def test_one_failure_is_found_in_whatever_queue_at_any_pace(task: Task, failed: Put, error_log: Table) -> None:
    for number in range(12):
        failed(requestId=f"request-{number}")
        assert page_of(task, 5) == [f"request-{number}"]
        error_log.delete_item(Key={"requestId": f"request-{number}"})


@pytest.mark.parametrize(
    ("minutes", "age", "is_over"), [("5", 269, False), ("5", 271, True), ("1", 29, False), ("1", 31, True)]
)
def test_a_run_looks_for_more_until_shortly_before_the_next_one(
    load: Load, failed: Put, minutes: str, age: int, is_over: bool
) -> None:
    failed()
    task = load("find_failures", HEALING_MINUTES=minutes)
    first_page = event(["lost"]) | {"startedAt": from_now(seconds=-age)}
    failures = task.handler(after_page(first_page, concurrency=8), context())["failures"]
    assert [failure["requestId"] for failure in failures] == ([] if is_over else ["8f7e6d5c", "lost"])
    # The first page is always read, however late the run is.
    assert task.handler(first_page, context())["failures"]


def results(*statuses: str) -> list[Json]:
    return [{"requestId": str(number), "status": status} for number, status in enumerate(statuses)]


def test_the_pace_of_a_page_follows_from_the_results_of_the_last(task: Task, failed: Put) -> None:
    failed()
    last = after_page(event(), *results("resolved", "resolved"), concurrency=8)
    assert task.handler(last, context())["concurrency"] == 16


@pytest.mark.parametrize(
    ("earlier", "statuses", "tally", "is_hopeless"),
    [
        ((0, 0), ["open", "open"], (2, 2), True),
        ((1, 1), ["not started"], (2, 2), True),
        ((5, 5), ["left for the next run", "open"], (7, 7), True),
        # One failure may have a reason of its own.
        ((0, 0), ["open"], (1, 1), False),
        ((0, 0), [], (0, 0), False),
        ((5, 5), ["open", "resolved"], (7, 6), False),
        ((5, 4), ["open"], (6, 5), False),
        # Another run has it.
        ((0, 0), ["open", "open", "skipped"], (2, 2), True),
        # Anybody can cause them, so they say nothing.
        ((0, 0), ["unconfirmed", "unconfirmed"], (0, 0), False),
        ((2, 2), ["unconfirmed"], (2, 2), True),
    ],
)
def test_a_run_in_which_every_redrive_fails_is_hopeless(
    task: Task, log: Log, earlier: tuple[int, int], statuses: list[str], tally: tuple[int, int], is_hopeless: bool
) -> None:
    redriven, failed = earlier
    before = {"concurrency": 8, "tally": {"redriven": redriven, "failed": failed}}
    answer = task.handler(after_page(event(), *results(*statuses), **before), context())
    assert (answer["tally"], answer["isHopeless"]) == ({"redriven": tally[0], "failed": tally[1]}, is_hopeless)
    (line,) = log()
    assert line.items() >= {"message": "Healing run ended", **answer["tally"]}.items()


@pytest.mark.parametrize("selection", [{}, {"dryRun": True}, SINCE], ids=str)
def test_a_search_ends_before_its_function_does(task: Task, failed: Put, selection: Json) -> None:
    failed()
    answer = task.handler(event(**selection), context(milliseconds=500))
    assert answer["failures"] == []
    if selection == SINCE:
        assert found(task, **SINCE, after=answer["next"]) == ["8f7e6d5c"]


# An operator's pages


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("selection", [ORDER, SINCE], ids=["order", "since"])
def test_paging_finds_each_failure_once(task: Task, failed: Put, selection: Json, limit: int) -> None:
    # Four in one queue, two elsewhere in its lane, and some in the others: most queues are empty.
    names = [*NEIGHBORS[:4], "b", "c"]
    for second, name in enumerate(names):
        failed(requestId=name, occurredAt=at(second))
    for lane in (Lane.UNCONFIRMED, Lane.OPERATOR, Lane.GIVEN_UP):
        failed(lane, requestId=lane.value, occurredAt=at(9))
    # What is filtered out leaves pages that must be filled up.
    failed(None, requestId="resolved", status="resolved")
    failed(requestId=NEIGHBORS[4], occurredAt="2019-01-01T10:00:00.000Z", orderId="another")
    pages: list[list[str]] = []
    more: Json | None = {}
    while more is not None:
        answer = task.handler(event(**selection, limit=limit, **more), context())
        pages.append([failure["requestId"] for failure in answer["failures"]])
        # As redrive.py does, from one execution's output to the next one's input.
        more = {"after": json.loads(json.dumps(answer["next"]))} if answer["next"] else None
    assert sorted(name for page in pages for name in page) == sorted([*names, "unconfirmed", "operator", "given up"])
    assert all(len(page) == limit for page in pages[:-1])


def test_a_page_that_ends_with_its_queue_continues_in_the_next(task: Task, failed: Put) -> None:
    failed(requestId=NEIGHBORS[0])
    answer = task.handler(event(**SINCE, limit=1), context())
    assert answer["next"] == {"queue": "BankApp#1#healing", "key": None}
    assert found(task, **SINCE, limit=1, after=answer["next"]) == []


@pytest.mark.parametrize(
    "after",
    [
        {"queue": "BankApp#0#healing"},
        {"queue": "Another#0#healing", "key": None},
        {"queue": "BankApp#8#healing", "key": None},
        {"queue": None, "key": None},
        {"requestId": {"S": "1"}},
    ],
    ids=str,
)
def test_an_after_that_is_no_next_is_refused(task: Task, failed: Put, after: Json) -> None:
    failed()
    with pytest.raises(InvalidSelection, match=r"^after: must be the `next` of the previous page"):
        task.handler(event(**SINCE, after=after), context())


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


def test_a_run_that_finds_nothing_asks_each_queue_once(load: Load, service: Service) -> None:
    task = load("find_failures", AWS_ENDPOINT_URL=service.url)
    service.answers(200, json.dumps({"Items": [], "Count": 0, "ScannedCount": 0}).encode())
    assert task.handler(event(), context()) == NOTHING
    asked = [json.loads(request.body)["ExpressionAttributeValues"][":0"]["S"] for request in service.requests]
    automatic = (Lane.UNCONFIRMED, Lane.HEALING)
    assert asked == [queue for lane in automatic for queue in queues_of("BankApp", lane)]


def test_an_error_on_a_later_page_does_not_end_the_list(load: Load, service: Service, pauses: list[float]) -> None:
    task = load("find_failures", AWS_ENDPOINT_URL=service.url)
    page = {"Items": [], "Count": 0, "ScannedCount": 1, "LastEvaluatedKey": {"requestId": {"S": "1"}}}
    service.first.append((200, json.dumps(page).encode(), {}))
    service.refuses("ThrottlingException", 400)
    with pytest.raises(ServiceUnavailable):
        task.handler(event(**SINCE), context())
    assert len(service.requests) == 3
    assert len(pauses) == 1
