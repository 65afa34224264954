import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from callbacks import times
from callbacks.errors import InvalidSelection
from callbacks.queues import Lane, shard_of, shards_of
from callbacks.tables import CallbackRecord, bind
from tests.outcomes import body_of
from tests.sources import table
from tests.unit.kit import BeforeCall, Json, Load, Log, Put, Service, Table, Task, context, from_now, items, only

TABLE = table("WalletCallbackRecordTable")["TableName"]
SINCE = "2020-01-01T10:00:00.000Z"
RECORD = {
    "orderId": "482500007436",
    "deliveryId": "2020-01-01T10:00:00.000Z#8f7e6d5c",
    "paymentId": "pay_bankapp_123",
    "userId": "somebody",
    "success": True,
    "extra": "{}",
    "body": '{"orderId": "482500007436"}',
    "channel": "BankApp",
    "requestId": "8f7e6d5c",
    "receivedAt": SINCE,
    "sourceIp": "203.0.113.7",
    "executionArn": "arn",
    "signatureHeaders": '{"webhook-id": "msg_1", "webhook-signature": "v1,c2lnbmVk"}',
    "signature": "passed",
    "undispatchedSince": SINCE,
}


@pytest.fixture
def task(load: Load, tables: dict[str, str]) -> Task:
    return load("collect_undispatched", ERROR_LOG_TABLE=tables["CallbackErrorLogTable"])


@pytest.fixture
def recorded(records: Table) -> Put:
    """Record a paid delivery whose dispatch was never confirmed; None leaves an attribute out."""

    def put(request_id: str = "8f7e6d5c", since: str | None = SINCE, **changes: Any) -> Json:
        identity = {"requestId": request_id, "deliveryId": f"{since}#{request_id}", "undispatchedSince": since}
        if since:
            identity["receivedAt"] = since
        item: Json = {**RECORD, **identity, **changes}
        item |= {"shard": shard_of(item["channel"], request_id)}
        item = {name: value for name, value in item.items() if value is not None}
        records.put_item(Item=item)
        return item

    return put


def event(**selection: Any) -> Json:
    """The input of the state."""
    return {"channel": "BankApp", "functionName": "bankappcallback", "table": TABLE, "selection": selection}


def collected(task: Task, **selection: Any) -> list[str]:
    request_ids: list[str] = task.handler(event(**selection), context())["requestIds"]
    return request_ids


def undispatched(records: Table) -> list[str]:
    """The deliveries that still wait for a confirmed dispatch."""
    return sorted(item["requestId"] for item in items(records) if "undispatchedSince" in item)


def at(second: int) -> str:
    return f"2020-01-01T10:00:{second:02}.000Z"


# The move


def test_a_payment_without_a_confirmed_dispatch_becomes_a_due_failure(
    task: Task, records: Table, recorded: Put, error_log: Table
) -> None:
    record = recorded()
    earliest = times.now() - timedelta(milliseconds=1)
    assert task.handler(event(), context()) == {"requestIds": ["8f7e6d5c"]}
    item = only(error_log)
    assert earliest <= datetime.fromisoformat(item.pop("queuedAt")) <= times.now()
    assert json.loads(item.pop("event")) == {
        "body": record["body"],
        "requestId": "8f7e6d5c",
        "receivedAt": 1577872800000,
        "sourceIp": "203.0.113.7",
        "headers": {"webhook-id": "msg_1", "webhook-signature": "v1,c2lnbmVk"},
    }
    assert item == {
        "requestId": "8f7e6d5c",
        "functionName": "bankappcallback",
        "occurredAt": "2020-01-01T10:00:00.000Z",
        "receivedAt": "2020-01-01T10:00:00.000Z",
        "channel": "BankApp",
        "executionArn": "arn",
        "step": "InvokeProcessPaid",
        "error": "DispatchUnconfirmed",
        "cause": "The execution ended before it confirmed the dispatch",
        "orderId": "482500007436",
        "chargeId": "pay_bankapp_123",
        "status": "open",
        "attempts": 0,
        "lane": "healing",
        "queue": "BankApp#3#healing",
        "verdicts": {"VerifySignature": "passed"},
    }
    # Nothing else on the record changes.
    del record["undispatchedSince"]
    assert items(records) == [record]


def test_a_payment_is_collected_once(task: Task, recorded: Put, error_log: Table) -> None:
    recorded()
    assert collected(task) == ["8f7e6d5c"]
    assert collected(task) == []
    assert len(items(error_log)) == 1


@pytest.mark.parametrize("headers", [None, RECORD["signatureHeaders"], '{"x-signature": "a/b+c=, \\u0e01"}'])
def test_a_collected_payment_is_redriven_as_the_original_delivery(
    load: Load, task: Task, recorded: Put, headers: str | None
) -> None:
    record = recorded(body=body_of("paid"), sourceIp=None, signatureHeaders=headers)
    task.handler(event(), context())
    claim = load("claim_failure").handler({"requestId": "8f7e6d5c", "isManual": False}, context())
    delivery = json.loads(claim["input"])
    again = load("validate_callback").handler(
        {"delivery": delivery, "executionName": "redrive", "startedAt": from_now()}, None
    )
    same = ("orderId", "deliveryId", "paymentId", "requestId", "receivedAt")
    assert [again[name] for name in same] == [record[name] for name in same]
    assert (delivery["body"], delivery["sourceIp"]) == (record["body"], None)
    assert delivery["headers"] == json.loads(headers or "{}")


@pytest.mark.parametrize(
    "verdicts",
    [
        {"signature": None, "signatureHeaders": None},
        {"signature": "skipped"},
        {"signature": "InvalidSignature: webhook-id: is missing", "crossCheck": "OrderNotFound", "inquiry": "passed"},
    ],
    ids=str,
)
def test_a_payment_is_collected_whatever_the_verdicts_and_keeps_them(
    task: Task, records: Table, recorded: Put, verdicts: dict[str, str | None]
) -> None:
    record = recorded(**verdicts)
    assert collected(task) == ["8f7e6d5c"]
    del record["undispatchedSince"]
    assert items(records) == [record]


@pytest.mark.parametrize("status", ["open", "redriven", "given up", "resolved"])
def test_a_failure_that_the_execution_reported_is_left_alone(
    task: Task, records: Table, recorded: Put, error_log: Table, failed: Put, log: Log, status: str
) -> None:
    recorded()
    before = failed(status=status, attempts=3)
    assert collected(task) == []
    assert items(error_log) == [before]
    # Healing looks after the failure, so the record need not be found again.
    assert undispatched(records) == []
    assert log() == []


def test_a_failure_that_is_reported_during_the_move_is_left_alone(
    task: Task, records: Table, recorded: Put, error_log: Table, failed: Put, log: Log, before_call: BeforeCall
) -> None:
    recorded()
    before_call(task.ErrorLog, "UpdateItem", lambda: failed(status="given up", attempts=3))
    assert collected(task) == []
    assert (only(error_log)["status"], only(error_log)["attempts"]) == ("given up", 3)
    assert undispatched(records) == []
    (line,) = log()
    assert line["isNew"] is False


def test_an_interrupted_move_is_completed_by_the_next_run(
    task: Task, records: Table, recorded: Put, error_log: Table, before_call: BeforeCall
) -> None:
    recorded()

    def kill() -> None:
        raise SystemExit

    before_call(bind(CallbackRecord, TABLE, retries=1), "UpdateItem", kill)
    with pytest.raises(SystemExit):
        task.handler(event(), context())
    (half,) = items(error_log)
    assert undispatched(records) == ["8f7e6d5c"]
    # FindFailures finds it in the error log, like everything that is due.
    assert collected(task) == []
    assert items(error_log) == [half]
    assert undispatched(records) == []


# Selection


def test_lost_payments_of_the_channel_are_collected_from_all_shards(task: Task, recorded: Put) -> None:
    lost = [f"request-{number}" for number in range(30)]
    assert {shard_of("BankApp", request_id) for request_id in lost} == set(shards_of("BankApp"))
    for second, request_id in enumerate(lost):
        recorded(request_id, at(second))
    recorded("declined, or confirmed", None)
    recorded("another channel's", at(1), channel="Another")
    assert sorted(collected(task)) == sorted(lost)


@pytest.mark.parametrize(("minutes", "seconds", "is_lost"), [("2", 119, False), ("2", 121, True), ("5", 121, False)])
@pytest.mark.parametrize(
    "selection", [{}, {"orderId": "482500007436"}, {"since": "2020-01-01T00:00:00Z"}], ids=["due", "order", "since"]
)
def test_a_payment_is_lost_once_it_is_older_than_any_execution(
    load: Load, records: Table, recorded: Put, selection: Json, minutes: str, seconds: int, is_lost: bool
) -> None:
    task = load("collect_undispatched", DISPATCH_AGE_MINUTES=minutes)
    recorded(since=from_now(seconds=-seconds + 0.5))
    assert collected(task, **selection) == ["8f7e6d5c"] * is_lost
    assert undispatched(records) == ["8f7e6d5c"] * (not is_lost)


def test_an_operator_collects_the_payments_of_one_order(task: Task, records: Table, recorded: Put) -> None:
    recorded("first", at(1))
    recorded("second", at(2))
    recorded("confirmed", None)
    recorded("of another order", at(1), orderId="another")
    assert collected(task, orderId="482500007436") == ["first", "second"]
    assert undispatched(records) == ["of another order"]


def test_an_operator_collects_the_payments_since_a_time_inclusive(task: Task, records: Table, recorded: Put) -> None:
    for second in (1, 2, 3):
        recorded(str(second), at(second))
    recorded("another channel's", at(3), channel="Another")
    assert sorted(collected(task, since="2020-01-01T17:00:02+07:00")) == ["2", "3"]
    assert undispatched(records) == ["1", "another channel's"]


@pytest.mark.parametrize("delta", [{"seconds": -60}, {"seconds": 60}], ids=str)
def test_nothing_can_be_lost_since_a_moment_ago(task: Task, recorded: Put, delta: dict[str, int]) -> None:
    recorded(since=from_now(seconds=-1))
    assert collected(task, since=from_now(**delta)) == []


def test_a_range_in_which_nothing_can_be_lost_is_not_queried(load: Load, service: Service) -> None:
    task = load("collect_undispatched", AWS_ENDPOINT_URL=service.url)
    # DynamoDB rejects a range that ends before it starts.
    assert collected(task, since=from_now(minutes=-1)) == []
    assert service.requests == []


@pytest.mark.parametrize(
    "selection",
    [{"requestId": "8f7e6d5c"}, {"after": {"requestId": {"S": "1"}}}, {"orderId": "482500007436", "after": {"a": 1}}],
    ids=str,
)
def test_nothing_is_collected_for_one_delivery_or_a_next_page(
    task: Task, records: Table, recorded: Put, selection: Json
) -> None:
    recorded()
    assert collected(task, **selection) == []
    assert undispatched(records) == ["8f7e6d5c"]


@pytest.mark.parametrize("selection", [{}, {"since": "2020-01-01T00:00:00Z"}], ids=["due", "since"])
def test_a_crowded_shard_is_collected_from_both_ends(
    task: Task, records: Table, recorded: Put, monkeypatch: pytest.MonkeyPatch, selection: Json
) -> None:
    monkeypatch.setattr(task, "KEYS_PER_END", 2)
    crowd = [name for name in (f"request-{number}" for number in range(99)) if shard_of("BankApp", name) == "BankApp#0"]
    first, second, third, fourth, last = crowd[:5]
    for moment, request_id in enumerate([first, second, third, fourth, last]):
        recorded(request_id, at(moment))
    assert collected(task, **selection) == [first, second, last, fourth]
    assert undispatched(records) == [third]
    assert collected(task, **selection) == [third]


def test_the_two_ends_of_a_shard_may_overlap(task: Task, recorded: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "KEYS_PER_END", 2)
    crowd = [name for name in (f"request-{number}" for number in range(99)) if shard_of("BankApp", name) == "BankApp#0"]
    for moment, request_id in enumerate(crowd[:3]):
        recorded(request_id, at(moment))
    assert collected(task) == crowd[:3]


def test_more_payments_than_one_read_can_look_up_are_collected(
    task: Task, records: Table, recorded: Put, failed: Put, error_log: Table
) -> None:
    names = [f"request-{number}" for number in range(130)]
    for request_id in names:
        recorded(request_id)
    for request_id in names[::2]:
        failed(requestId=request_id, status="given up")
    assert sorted(collected(task, orderId="482500007436")) == sorted(names[1::2])
    assert undispatched(records) == []
    assert len(items(error_log)) == 130


# Executions that an operator started with the same input, which has a request id but no time.
def test_two_records_of_one_request_id_are_one_failure(
    task: Task, records: Table, recorded: Put, error_log: Table
) -> None:
    recorded(since=at(1))
    recorded(since=at(2))
    assert collected(task) == ["8f7e6d5c"]
    assert undispatched(records) == []
    assert only(error_log)["occurredAt"] == at(1)


@pytest.mark.parametrize(
    "selection", [{}, {"orderId": "482500007436"}, {"since": "2020-01-01T00:00:00Z"}], ids=["due", "order", "since"]
)
def test_a_dry_run_finds_the_same_payments_and_moves_none(
    task: Task, records: Table, recorded: Put, error_log: Table, log: Log, selection: Json
) -> None:
    before = recorded()
    assert collected(task, dryRun=True, **selection) == ["8f7e6d5c"]
    assert items(records) == [before]
    assert items(error_log) == []
    assert log() == []
    assert collected(task, dryRun=False, **selection) == ["8f7e6d5c"]


def test_a_dry_run_omits_what_the_error_log_has(task: Task, recorded: Put, failed: Put, records: Table) -> None:
    recorded()
    failed(Lane.OPERATOR, error="PaymentConflict")
    assert collected(task, dryRun=True) == []
    assert undispatched(records) == ["8f7e6d5c"]


# Concurrency and log


def test_a_payment_confirmed_after_the_index_was_read_is_not_lost(
    task: Task, recorded: Put, records: Table, error_log: Table, before_call: BeforeCall
) -> None:
    item = recorded()
    key = {"orderId": item["orderId"], "deliveryId": item["deliveryId"]}

    def confirm() -> None:
        records.update_item(Key=key, UpdateExpression="REMOVE undispatchedSince")

    before_call(bind(CallbackRecord, TABLE, retries=1), "GetItem", confirm)
    assert collected(task) == []
    assert items(error_log) == []


def test_the_log_names_the_delivery_but_not_the_user(task: Task, recorded: Put, log: Log) -> None:
    recorded()
    task.handler(event(), context())
    (line,) = log()
    expected = {
        "message": "Undispatched payment found",
        "orderId": "482500007436",
        "deliveryId": "2020-01-01T10:00:00.000Z#8f7e6d5c",
        "isNew": True,
    }
    assert line.items() >= expected.items()
    assert "somebody" not in json.dumps(line)


# A delivery that an operator names with its order

DECISION = {"id": "decision-1", "action": "again", "by": "arn", "reason": "no trace of it"}


def named(task: Task, order_id: str = "482500007436", **selection: Any) -> list[str]:
    return collected(task, requestId="8f7e6d5c", orderId=order_id, decision=DECISION, **selection)


def test_a_delivery_that_never_failed_becomes_a_failure_if_an_operator_names_it(
    task: Task, recorded: Put, error_log: Table
) -> None:
    recorded(undispatchedSince=None, dispatchedBy="any")
    recorded("another")
    assert named(task, dryRun=True) == ["8f7e6d5c"]
    assert items(error_log) == []
    assert named(task) == ["8f7e6d5c"]
    assert (only(error_log)["requestId"], only(error_log)["error"]) == ("8f7e6d5c", "DecisionRequested")
    # It has a failure now.
    assert named(task) == []


def test_a_delivery_is_not_found_under_another_order(task: Task, recorded: Put) -> None:
    recorded()
    assert named(task, "another") == []


# Invalid input


@pytest.mark.parametrize("selection", [{"orderid": "1"}, {"since": "yesterday"}, {"dryRun": "yes"}, {"limit": 0}])
def test_an_invalid_selection_moves_nothing(task: Task, records: Table, recorded: Put, selection: Json) -> None:
    recorded()
    with pytest.raises(InvalidSelection):
        task.handler(event(**selection), context())
    assert undispatched(records) == ["8f7e6d5c"]


@pytest.mark.parametrize("selection", [None, [], "due"], ids=str)
def test_an_invalid_input_moves_nothing(task: Task, selection: Any) -> None:
    with pytest.raises(InvalidSelection):
        task.handler({**event(), "selection": selection}, context())
