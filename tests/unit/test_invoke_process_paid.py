import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from botocore.exceptions import ClientError

from callbacks.errors import (
    DispatchInProgress,
    DispatchUncertain,
    DispatchUndecided,
    OrderPaidTwice,
    PaymentConflict,
    ServiceUnavailable,
)
from tests.outcomes import body_of
from tests.sources import table
from tests.unit.kit import BeforeCall, Json, Load, Log, Service, Table, TableOf, Task, Within, context, items

EVENTS = Path(__file__).parents[2] / "events"
RECORDS = table("WalletCallbackRecordTable")["TableName"]
FUNCTION = "payment3-process-paid-wallet-order-internal-test"
LATER = "2026-11-22T10:00:09.000Z#later"
CONFLICT = "The payment was delivered before with another amount or user"

BeforeInvoke = Callable[[Callable[[], None]], None]


def event(callback: Json, **changes: Any) -> Json:
    """Return the input of the state."""
    common = {"channel": "BankApp", "function": FUNCTION, "table": RECORDS, "secondPaymentMode": "warn"}
    verdicts = {"crossCheck": "passed", "inquiry": "skipped"}
    return {**common, "body": body_of("paid"), "callback": {**callback, **changes}, "verdicts": verdicts}


def dispatched(callback: Json, **changes: Any) -> Json:
    """Return the answer for a delivery that is not a duplicate."""
    ids = {"orderId": callback["orderId"], "paymentId": callback["paymentId"], "dispatchedBy": callback["deliveryId"]}
    return {**ids, "isDuplicate": False, "isConfirmed": True, "contradiction": None, **changes}


def expire(ledger: Table) -> None:
    """Let every claim expire."""
    for item in items(ledger):
        ledger.put_item(Item={**item, "claimedUntil": "2020-01-01T00:00:00.000Z"})


@pytest.fixture
def ledger(table_of: TableOf) -> Table:
    return table_of("PaymentLedgerTable")


@pytest.fixture
def task(load: Load, records: Table, service: Service, callback: Json) -> Task:
    """The task with moto's DynamoDB, in which both deliveries are recorded, and a Lambda that accepts every event."""
    for delivery_id in (callback["deliveryId"], LATER):
        records.put_item(Item={"orderId": callback["orderId"], "deliveryId": delivery_id})
    service.answers(202, **{"x-amzn-requestid": "request-1"})
    return load("invoke_process_paid", AWS_ENDPOINT_URL_LAMBDA=service.url)


@pytest.fixture
def calls(task: Task) -> list[str]:
    """The operations of DynamoDB that the task has called."""
    made: list[str] = []
    client = task.ledger.Payments._get_connection().connection.client
    client.meta.events.register(
        "before-send.dynamodb.*", lambda **event: made.append(event["event_name"].split(".")[-1])
    )
    return made


@pytest.fixture
def before_invoke(task: Task) -> BeforeInvoke:
    """Act once, just before the next invoke is sent."""

    def register(action: Callable[[], None]) -> None:
        def once(**_: object) -> None:
            events.unregister("before-send.lambda.Invoke", once)
            action()

        events.register_first("before-send.lambda.Invoke", once)

    events = task.lambda_client.meta.events
    return register


# The invoke


@pytest.mark.parametrize("name", ["paid", "exact-amount", "unknown-fields", "text-of-all-kinds"])
def test_the_payload_is_the_body_byte_for_byte(task: Task, service: Service, callback: Json, name: str) -> None:
    body = json.loads((EVENTS / f"{name}.json").read_text())["body"]
    assert task.handler({**event(callback), "body": body}, context()) == dispatched(callback)
    (request,) = service.requests
    assert request.body == body.encode()


def test_the_function_of_the_channel_is_invoked_asynchronously(task: Task, service: Service, callback: Json) -> None:
    task.handler(event(callback), context())
    (request,) = service.requests
    assert request.path == f"/2015-03-31/functions/{FUNCTION}/invocations"
    assert request.headers["X-Amz-Invocation-Type"] == "Event"


def test_the_ledger_keeps_the_request_id_of_the_invoke(task: Task, ledger: Table, callback: Json) -> None:
    task.handler(event(callback), context())
    (item,) = items(ledger)
    assert (item["dispatchedBy"], item["invokeRequestId"]) == (callback["deliveryId"], "request-1")


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("TooManyRequestsException", 429, ServiceUnavailable),
        ("ServiceException", 500, ServiceUnavailable),
        ("AccessDeniedException", 403, ClientError),
    ],
)
def test_an_invoke_that_lambda_refuses_releases_the_claim(
    task: Task, ledger: Table, service: Service, callback: Json, code: str, status: int, error: type[Exception]
) -> None:
    service.refuses_once(code, status)
    with pytest.raises(error, match=code):
        task.handler(event(callback), context())
    (item,) = items(ledger)
    assert item["dispatches"] == 0
    assert len(service.requests) == 1
    # The next attempt may be another delivery's.
    later = task.handler(event(callback, deliveryId=LATER), context(attempt="attempt-2"))
    assert later == dispatched(callback, dispatchedBy=LATER)


@pytest.mark.parametrize("unreachable", ["deaf", "nobody"])
def test_an_invoke_that_never_reaches_lambda_releases_the_claim(
    load: Load, ledger: Table, callback: Json, within: Within, unreachable: str, request: pytest.FixtureRequest
) -> None:
    task = load("invoke_process_paid", AWS_ENDPOINT_URL_LAMBDA=request.getfixturevalue(unreachable))
    with within(1.8), pytest.raises(ServiceUnavailable):
        task.handler(event(callback), context())
    assert [item["dispatches"] for item in items(ledger)] == [0]


def test_a_container_invokes_on_one_connection(load: Load, ledger: Table, callback: Json) -> None:
    connections: list[object] = []

    class KeepAlive(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            connections.append(self.client_address)
            super().setup()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), KeepAlive) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        task = load("invoke_process_paid", AWS_ENDPOINT_URL_LAMBDA=f"http://127.0.0.1:{server.server_port}")
        for payment in ("one", "two"):
            task.handler(event(callback, paymentId=payment), context())
        task.lambda_client.close()
        server.shutdown()
    assert len(items(ledger)) == 2
    assert len(connections) == 1


def test_an_invoke_without_an_answer_is_uncertain_and_keeps_the_claim(
    task: Task, ledger: Table, service: Service, callback: Json, within: Within
) -> None:
    service.hangs()
    with within(1.8), pytest.raises(DispatchUncertain):
        task.handler(event(callback), context())
    assert len(service.requests) == 1
    (item,) = items(ledger)
    assert (item["claimedBy"], item["dispatches"]) == (callback["deliveryId"], 1)


def test_an_uncertain_dispatch_is_repeated_once_and_then_left_to_an_operator(
    task: Task, ledger: Table, service: Service, callback: Json
) -> None:
    service.hangs()
    for number in (1, 2):
        with pytest.raises(DispatchUncertain):
            task.handler(event(callback), context(attempt=f"attempt-{number}"))
        expire(ledger)
    with pytest.raises(DispatchUndecided, match="may have been dispatched 2 times"):
        task.handler(event(callback), context(attempt="attempt-3"))
    assert len(service.requests) == 2


def test_a_refused_invoke_whose_claim_cannot_be_released_is_not_retried(
    task: Task, service: Service, callback: Json, before_call: BeforeCall, before_invoke: BeforeInvoke
) -> None:
    def fail() -> None:
        raise OSError

    service.refuses("TooManyRequestsException", 429)
    before_invoke(lambda: before_call(task.ledger.Payments, "UpdateItem", fail))
    with pytest.raises(DispatchUncertain, match="Nothing was dispatched"):
        task.handler(event(callback), context())


# Once per payment


def test_a_second_delivery_of_a_payment_is_a_duplicate(task: Task, service: Service, callback: Json) -> None:
    task.handler(event(callback), context())
    again = task.handler(event(callback, deliveryId=LATER, body="{}"), context(attempt="attempt-2"))
    assert again == dispatched(callback, isDuplicate=True, isConfirmed=False)
    assert len(service.requests) == 1


def test_a_retry_after_a_lost_answer_is_no_duplicate(task: Task, service: Service, callback: Json) -> None:
    task.handler(event(callback), context())
    assert task.handler(event(callback), context(attempt="attempt-2")) == dispatched(callback)
    assert len(service.requests) == 1


def test_a_conflict_is_not_invoked_and_reveals_nothing(task: Task, service: Service, callback: Json) -> None:
    task.handler(event(callback), context())
    conflict = event(callback, userId="another", amount="7")
    with pytest.raises(PaymentConflict) as error:
        task.handler(conflict, context(attempt="attempt-2"))
    assert str(error.value) == CONFLICT
    assert len(service.requests) == 1


@pytest.mark.parametrize("changes", [{"userId": "another"}, {"amount": "7"}], ids=str)
def test_a_conflict_takes_as_many_calls_as_a_duplicate(
    task: Task, service: Service, callback: Json, calls: list[str], changes: dict[str, str]
) -> None:
    task.handler(event(callback), context())
    calls.clear()
    task.handler(event(callback, deliveryId=LATER), context(attempt="attempt-2"))
    of_a_duplicate = calls.copy()
    calls.clear()
    with pytest.raises(PaymentConflict):
        task.handler(event(callback, deliveryId=LATER, **changes), context(attempt="attempt-3"))
    assert calls == of_a_duplicate == ["UpdateItem", "GetItem"]
    assert len(service.requests) == 1


def test_a_duplicate_during_the_dispatch_is_in_progress(
    task: Task, service: Service, callback: Json, before_invoke: BeforeInvoke
) -> None:
    refusals = []

    def deliver_again() -> None:
        with pytest.raises(DispatchInProgress) as error:
            task.handler(event(callback, deliveryId=LATER), context(attempt="attempt-2"))
        refusals.append(str(error.value))

    before_invoke(deliver_again)
    assert task.handler(event(callback), context()) == dispatched(callback)
    assert refusals == ["Another delivery of the payment is being dispatched"]
    assert len(service.requests) == 1


def test_a_killed_attempt_keeps_its_claim_until_it_expires(
    task: Task, ledger: Table, service: Service, callback: Json, before_invoke: BeforeInvoke
) -> None:
    def kill() -> None:
        raise SystemExit

    before_invoke(kill)
    with pytest.raises(SystemExit):
        task.handler(event(callback), context())
    with pytest.raises(DispatchInProgress):
        task.handler(event(callback, deliveryId=LATER), context(attempt="attempt-2"))
    expire(ledger)
    later = task.handler(event(callback, deliveryId=LATER), context(attempt="attempt-3"))
    assert later == dispatched(callback, dispatchedBy=LATER)
    assert len(service.requests) == 1


@pytest.mark.parametrize(("recorded", "invokes"), [({"dispatchedBy": "any"}, 0), ({}, 1)])
def test_an_unfinished_dispatch_that_is_on_record_is_not_repeated(
    task: Task,
    ledger: Table,
    records: Table,
    service: Service,
    callback: Json,
    before_invoke: BeforeInvoke,
    recorded: Json,
    invokes: int,
) -> None:
    def kill() -> None:
        raise SystemExit

    before_invoke(kill)
    with pytest.raises(SystemExit):
        task.handler(event(callback), context())
    expire(ledger)
    record = {"orderId": callback["orderId"], "deliveryId": callback["deliveryId"], **recorded}
    records.put_item(Item=record)
    again = task.handler(event(callback, deliveryId=LATER), context(attempt="attempt-2"))
    assert again["isDuplicate"] is (invokes == 0)
    assert len(service.requests) == invokes


def test_an_unfinished_dispatch_whose_record_is_gone_is_left_to_an_operator(
    task: Task, ledger: Table, records: Table, service: Service, callback: Json
) -> None:
    service.hangs()
    with pytest.raises(DispatchUncertain):
        task.handler(event(callback), context())
    expire(ledger)
    records.delete_item(Key={"orderId": callback["orderId"], "deliveryId": callback["deliveryId"]})
    later = event(callback, deliveryId=LATER)
    with pytest.raises(DispatchUndecided, match="its record is gone"):
        task.handler(later, context(attempt="attempt-2"))
    assert len(service.requests) == 1
    service.released.set()
    later["callback"]["decision"] = {"id": "decision-1", "action": "again"}
    assert task.handler(later, context(attempt="attempt-3"))["dispatchedBy"] == LATER


# Time


@pytest.mark.parametrize(("milliseconds", "invokes"), [(1400, 0), (1600, 1)])
def test_a_dispatch_starts_only_if_there_is_time_to_record_it(
    task: Task, ledger: Table, service: Service, callback: Json, milliseconds: int, invokes: int
) -> None:
    if invokes:
        assert task.handler(event(callback), context(milliseconds)) == dispatched(callback)
    else:
        with pytest.raises(ServiceUnavailable, match="Too little time is left"):
            task.handler(event(callback), context(milliseconds))
    assert [item["dispatches"] for item in items(ledger)] == [invokes]
    assert len(service.requests) == invokes


def test_a_dispatch_that_cannot_be_finished_is_answered_anyway(
    task: Task, ledger: Table, service: Service, callback: Json, before_call: BeforeCall, log: Log
) -> None:
    def fail() -> None:
        raise OSError

    original = task.ledger.finish

    def failing_finish(*arguments: Any) -> None:
        before_call(task.ledger.Payments, "UpdateItem", fail)
        original(*arguments)

    try:
        task.ledger.finish = failing_finish
        assert task.handler(event(callback), context()) == dispatched(callback)
    finally:
        task.ledger.finish = original
    assert [line["message"] for line in log()] == ["The dispatch could not be stored", "Process-paid invoked"]
    assert "dispatchedBy" not in items(ledger)[0]
    assert len(service.requests) == 1


# The confirmation in the record


def test_the_record_shows_the_dispatch_and_the_verdicts(task: Task, records: Table, callback: Json) -> None:
    key = {name: callback[name] for name in ("orderId", "deliveryId")}
    records.put_item(Item={**key, "undispatchedSince": "2026-11-22T10:00:00.000Z", "shard": "BankApp#1"})
    task.handler(event(callback), context())
    stored = records.get_item(Key=key)["Item"]
    shown = {"dispatchedBy": callback["deliveryId"], "crossCheck": "passed", "inquiry": "skipped"}
    assert stored == {**key, "shard": "BankApp#1", **shown}


def test_nothing_is_left_to_confirm_on_a_record_that_is_gone(
    task: Task, records: Table, callback: Json, log: Log
) -> None:
    key = {name: callback[name] for name in ("orderId", "deliveryId")}
    records.delete_item(Key=key)
    assert task.handler(event(callback), context()) == dispatched(callback, isConfirmed=True)
    assert "Item" not in records.get_item(Key=key)
    assert log()[-1]["message"] == "The record was erased before its dispatch was confirmed"


def test_an_unconfirmed_dispatch_is_left_to_the_workflow(
    task: Task, records: Table, service: Service, callback: Json, log: Log
) -> None:
    remaining = iter([60_000, 60_000, 60_000, 500, 60_000])
    late = context()
    late.get_remaining_time_in_millis = lambda: next(remaining)
    assert task.handler(event(callback), late) == dispatched(callback, isConfirmed=False)
    assert not any("dispatchedBy" in item for item in items(records))
    assert log()[-1]["message"] == "The dispatch could not be confirmed"
    assert len(service.requests) == 1


# Contradictions


def test_payments_are_not_compared_without_the_time_for_it(task: Task, service: Service, callback: Json) -> None:
    remaining = iter([60_000, 60_000, 60_000, 60_000, 900])
    late = context()
    late.get_remaining_time_in_millis = lambda: next(remaining)
    answer = task.handler(event(callback), late)
    assert answer["contradiction"] == {
        "error": "PaymentsNotCompared",
        "message": "Other payments could not be looked up: ServiceUnavailable",
    }
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("other", "error"), [({"paymentId": "another"}, "OrderPaidTwice"), ({"orderId": "another"}, "PaymentIdReused")]
)
def test_a_payment_that_contradicts_another_is_told(task: Task, callback: Json, other: Json, error: str) -> None:
    task.handler(event(callback), context())
    answer = task.handler(event(callback, deliveryId=LATER, **other), context(attempt="attempt-2"))
    assert answer["contradiction"]["error"] == error


def test_a_second_payment_on_hold_is_not_invoked(task: Task, ledger: Table, service: Service, callback: Json) -> None:
    task.handler(event(callback), context())
    second = event(callback, paymentId="another") | {"secondPaymentMode": "hold"}
    with pytest.raises(OrderPaidTwice, match="pay_bankapp_123"):
        task.handler(second, context(attempt="attempt-2"))
    assert len(service.requests) == 1
    assert sorted(item["dispatches"] for item in items(ledger)) == [0, 1]


def test_a_duplicate_is_not_compared_again(task: Task, callback: Json) -> None:
    task.handler(event(callback), context())
    task.handler(event(callback, paymentId="another"), context(attempt="attempt-2"))
    duplicate = task.handler(event(callback, deliveryId=LATER), context(attempt="attempt-3"))
    assert duplicate["contradiction"] is None


# What is logged


def test_the_log_names_the_deliveries_but_not_the_user(task: Task, callback: Json, log: Log) -> None:
    task.handler(event(callback), context())
    task.handler(event(callback, deliveryId=LATER), context(attempt="attempt-2"))
    first, second = log()
    assert (first["message"], first["deliveryId"]) == ("Process-paid invoked", callback["deliveryId"])
    assert (second["message"], second["deliveryId"]) == ("Payment already dispatched", LATER)
    assert second["dispatchedBy"] == callback["deliveryId"]
    assert callback["userId"] not in json.dumps([first, second])


def test_a_failed_invoke_is_not_logged_as_invoked(task: Task, service: Service, callback: Json, log: Log) -> None:
    service.refuses("AccessDeniedException", 403)
    with pytest.raises(ClientError):
        task.handler(event(callback), context())
    assert log() == []


def test_an_operators_decision_dispatches_a_payment_once_more(
    task: Task, service: Service, ledger: Table, callback: Json
) -> None:
    task.handler(event(callback), context())
    again = {"deliveryId": LATER, "decision": {"id": "decision-1", "action": "again"}}
    answers = [task.handler(event(callback, **again), context(attempt=f"attempt-{number}")) for number in (2, 3)]
    assert answers == [dispatched(callback, dispatchedBy=LATER)] * 2
    assert len(service.requests) == 2
    (item,) = items(ledger)
    assert item["dispatches"] == 2
