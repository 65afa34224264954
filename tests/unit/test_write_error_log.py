import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from boto3.dynamodb.conditions import Key

from callbacks.queues import Lane
from tests.unit.kit import (
    BeforeCall,
    Json,
    Load,
    Put,
    Service,
    Table,
    Task,
    context,
    items,
    only,
    operations,
    reported,
    size_of,
)

EVENTS = Path(__file__).parents[2] / "events"


@pytest.fixture
def task(load: Load, tables: dict[str, str]) -> Task:
    return load("write_error_log", ERROR_LOG_TABLE=tables["CallbackErrorLogTable"])


def test_everything_known_about_a_failure_is_on_its_item(task: Task, error_log: Table, failure: Json) -> None:
    failure["report"]["checks"] = {
        "VerifySignature": {"verdict": "passed"},
        "CrossCheckPayment": {"verdict": "skipped"},
    }
    assert task.handler(failure, None) == {"reported": True}
    item = only(error_log)
    assert json.loads(item.pop("event")) == failure["event"]
    assert item == {
        "executionArn": failure["report"]["executionArn"],
        "functionName": "bankappcallback",
        "occurredAt": "2026-11-22T10:00:01.000Z",
        "channel": "BankApp",
        "step": "SaveCallbackRecord",
        "error": "ServiceUnavailable",
        "cause": failure["report"]["failure"]["SaveCallbackRecord"]["Cause"],
        "orderId": "482500007436",
        "chargeId": "pay_bankapp_123",
        "requestId": "8f7e6d5c",
        "receivedAt": "2026-11-22T10:00:00.000Z",
        "status": "open",
        "attempts": 0,
        "lane": "healing",
        "queue": "BankApp#3#healing",
        "queuedAt": "2026-11-22T10:05:01.000Z",
        "verdicts": {"VerifySignature": "passed", "CrossCheckPayment": "skipped"},
    }


def test_a_second_attempt_leaves_one_item(task: Task, error_log: Table, failure: Json) -> None:
    task.handler(failure, None)
    first = items(error_log)
    assert task.handler(failure, None) == {"reported": True}
    assert items(error_log) == first


def test_the_body_of_every_event_can_be_restored_from_its_item(task: Task, error_log: Table, failure: Json) -> None:
    bodies = {file.stem: json.loads(file.read_text())["body"] for file in EVENTS.glob("*.json")}
    assert bodies
    for name, body in bodies.items():
        task.handler({**reported(failure, executionName=name), "event": {"body": body}}, None)
    assert {item["requestId"]: json.loads(item["event"])["body"] for item in items(error_log)} == bodies


@pytest.mark.parametrize("body", ["half a pair: \ud83c", "ชำระเงินสำเร็จ 🎉", "\x00\x7f\u2028'\"\\/", "ก" * 8_193])
def test_any_text_is_kept(task: Task, error_log: Table, failure: Json, body: str) -> None:
    failure["event"]["body"] = body
    task.handler(failure, None)
    item = only(error_log)
    assert json.loads(item["event"])["body"] == body


def test_ids_are_found_in_a_malformed_body(task: Task, error_log: Table, failure: Json) -> None:
    failure["event"]["body"] = json.loads((EVENTS / "malformed.json").read_text())["body"]
    task.handler(failure, None)
    item = only(error_log)
    assert (item["orderId"], item["chargeId"]) == ("482500007442", "pay_bankapp_129")


@pytest.mark.parametrize("delivery", [{"body": ""}, {"body": "{}"}, {"body": None}, {}])
def test_ids_that_cannot_be_found_are_not_on_the_item(
    task: Task, error_log: Table, failure: Json, delivery: Json
) -> None:
    task.handler({**failure, "event": delivery}, None)
    item = only(error_log)
    assert not {"orderId", "chargeId"} & item.keys()
    assert item["requestId"] == failure["report"]["executionName"]


# What is kept of a refusal

SIGNED = {
    "content-type": "application/json",
    "user-agent": "Apache-HttpClient/4.5.13 (Java/11.0.20)",
    "webhook-id": "msg_2KWPBgLlAfxdpt2AI54pPJ85f4W",
    "webhook-timestamp": "1674087231",
    # With the old key and the new one.
    "webhook-signature": " ".join(["v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="] * 2),
}
LIMIT = 3 * 1024


def refused(failure: Json, body: Any, *, message: str = "signature: does not match", **delivery: Any) -> Json:
    """Return the failure of a delivery whose signature was refused."""
    cause = {"errorMessage": message, "errorType": "InvalidSignature", "stackTrace": ["line"] * 50}
    arn = "arn:aws:states:ap-southeast-1:123456789012:express:payment3-bankapp-callback-production:"
    skipped = {"verdict": "failed: ServiceUnavailable"}
    report = failure["report"] | {
        "failure": {"VerifySignature": {"Error": "InvalidSignature", "Cause": json.dumps(cause)}},
        "checks": dict.fromkeys(["VerifySignature", "CrossCheckPayment", "InquirePayment"], skipped),
        "executionArn": f"{arn}{failure['report']['executionName']}:8f7e6d5c-5b2f-4f6c-9a57-0a4f0d3f2f4e",
    }
    return {"report": report, "event": {"headers": SIGNED, **failure["event"], "body": body, **delivery}}


def padded(size: int, filler: str = "x") -> str:
    """Return a callback of so many bytes with a long message."""
    ids = '{"orderId": "482500007436", "paymentId": "pay_bankapp_123", "userId": "u1", "success": true, "message": "'
    room = size - len(ids) - len('"}')
    return ids + filler * (room // len(filler.encode())) + '"}'


@pytest.mark.parametrize(
    "body",
    [padded(190), padded(2048), padded(2048, "ก"), padded(190)[:-9], ""],
    ids=["short", "2 KB", "Thai", "malformed", "empty"],
)
def test_a_refused_body_of_up_to_2_kb_is_kept_whole_with_what_a_redrive_needs(
    task: Task, error_log: Table, failure: Json, body: str
) -> None:
    refusal = refused(failure, body, headers=SIGNED)
    task.handler(refusal, None)
    item = only(error_log)
    kept = json.loads(item["event"])
    # ClaimFailure puts the id and the time back.
    assert kept | {"requestId": item["requestId"], "receivedAt": 1795341600000} == refusal["event"]
    assert size_of(item) <= LIMIT


# Each filler with the hostile members of the rest of a delivery: long ids, headers and messages.
LONG = dict.fromkeys([*SIGNED, "x-signature"], "\x07" * 1024)


@pytest.mark.parametrize("filler", ["x", '"', "\\", "\x01", "ก", "🎉", "\ud83c", "\u2028"], ids=ascii)
@pytest.mark.parametrize("size", [600, 2400, 8192])
def test_a_refusal_takes_at_most_3_kb_whatever_is_in_its_body(
    task: Task, error_log: Table, failure: Json, filler: str, size: int
) -> None:
    ids = json.dumps({"orderId": "🎉" * 128, "paymentId": "ก" * 128}, ensure_ascii=False)[:-1]
    for body in (filler * size, ids + filler * size):
        for headers in ({}, SIGNED, LONG):
            task.handler(refused(failure, body, message="ก" * 9999, headers=headers), None)
            assert size_of(only(error_log)) <= LIMIT
            error_log.delete_item(Key={"requestId": "8f7e6d5c"})


def test_a_large_refused_body_leaves_its_beginning_and_its_digest(task: Task, error_log: Table, failure: Json) -> None:
    body = padded(8192, "ก")
    task.handler(refused(failure, body), None)
    item = only(error_log)
    kept = json.loads(item["event"])
    assert body.startswith(kept.pop("body")[:500])
    digest = hashlib.sha256(body.encode()).hexdigest()
    assert kept == {"bodyLength": len(body), "bodySha256": digest, "sourceIp": "203.0.113.7"}
    assert (item["orderId"], item["cause"]) == ("482500007436", "signature: does not match")


def test_only_what_is_refused_at_once_is_cut(task: Task, error_log: Table, failure: Json) -> None:
    body = padded(8192)
    for error in ("PaymentMismatch", "ServiceUnavailable", "OrderNotFound", "PaymentConflict"):
        failure["report"]["failure"] = {"CrossCheckPayment": {"Error": error, "Cause": ""}}
        task.handler(reported(failure, executionName=error) | {"event": {"body": body}}, None)
    assert [json.loads(item["event"]) for item in items(error_log)] == [{"body": body}] * 4


def test_a_delivery_that_was_accepted_is_not_cut_when_its_redrive_is_refused(
    task: Task, error_log: Table, failure: Json
) -> None:
    failure["event"]["body"] = padded(8192)
    task.handler(failure, None)
    task.handler(refused(failure, padded(8192)), None)
    item = only(error_log)
    assert item["error"] == "InvalidSignature"
    assert json.loads(item["event"]) == failure["event"]


def test_a_long_cause_is_cut(task: Task, error_log: Table, failure: Json) -> None:
    failure["report"]["failure"] = {"ValidateCallback": {"Error": "Lambda.Unknown", "Cause": "ก" * 32_768}}
    task.handler(failure, None)
    assert only(error_log)["cause"] == "ก" * (4096 // 3)


# Status and plan


@pytest.mark.parametrize(
    ("delay", "due"), [("5", "10:05:01"), ("1", "10:01:01"), ("720", "22:00:01"), ("0", "10:00:01")]
)
def test_a_first_failure_opens_the_item_and_is_due_after_the_first_delay(
    load: Load, error_log: Table, failure: Json, delay: str, due: str
) -> None:
    load("write_error_log", REDRIVE_DELAY_MINUTES=delay).handler(failure, None)
    item = only(error_log)
    assert (item["status"], item["attempts"], item["queuedAt"]) == ("open", 0, f"2026-11-22T{due}.000Z")
    assert item["queue"] == "BankApp#3#healing"


def test_a_failure_that_a_stranger_can_cause_waits_in_a_lane_of_its_own(
    task: Task, error_log: Table, failure: Json
) -> None:
    failure["report"]["failure"] = {"CrossCheckPayment": {"Error": "OrderNotFound", "Cause": ""}}
    task.handler(failure, None)
    item = only(error_log)
    assert (item["lane"], item["queue"]) == ("unconfirmed", "BankApp#3#unconfirmed")
    assert item["queuedAt"] == "2026-11-22T10:05:01.000Z"


@pytest.mark.parametrize("error", ["InvalidCallback", "PaymentConflict"])
def test_a_refusal_opens_the_item_but_waits_for_an_operator(
    task: Task, error_log: Table, failure: Json, error: str
) -> None:
    failure["report"]["failure"] = {"ValidateCallback": {"Error": error, "Cause": ""}}
    task.handler(failure, None)
    item = only(error_log)
    assert (item["status"], item["attempts"]) == ("open", 0)
    # An operator's redrive that fails without a refusal is followed by automatic ones.
    assert (item["queue"], item["lane"]) == ("BankApp#3#operator", "healing")
    assert item["queuedAt"] == item["occurredAt"] == "2026-11-22T10:00:01.000Z"


FACTS = {"executionArn", "step", "error", "cause", "verdicts"}


@pytest.mark.parametrize("error", ["DispatchInProgress", "InvalidCallback"])
@pytest.mark.parametrize(
    "planned",
    [
        {"status": "open", "attempts": 0},
        {"status": "open", "attempts": 0, "waits_in": Lane.OPERATOR},
        {"status": "open", "attempts": 3, "lastResult": "TIMED_OUT"},
        {"status": "redriven", "attempts": 1},
        {"status": "given up", "attempts": 8, "waits_in": Lane.GIVEN_UP, "lastResult": "500 no"},
    ],
    ids=str,
)
def test_a_later_failure_changes_the_error_but_not_the_plan(
    task: Task, error_log: Table, failed: Put, failure: Json, planned: Json, error: str
) -> None:
    before = failed(**planned)
    failure["report"]["failure"] = {"ValidateCallback": {"Error": error, "Cause": "again"}}
    failure["report"]["checks"] = {"VerifySignature": {"verdict": "passed"}}
    failure["event"]["receivedAt"] = 1577872800000
    assert task.handler(failure, None) == {"reported": True}
    after = only(error_log)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == FACTS
    assert after["verdicts"] == {"VerifySignature": "passed"}
    assert [after[name] for name in ("executionArn", "step", "error", "cause")] == [
        failure["report"]["executionArn"],
        "ValidateCallback",
        error,
        "again",
    ]


def test_ids_that_a_later_failure_lacks_are_kept(task: Task, error_log: Table, failed: Put, failure: Json) -> None:
    failed()
    failure["event"]["body"] = None
    task.handler(failure, None)
    item = only(error_log)
    assert (item["orderId"], item["chargeId"]) == ("482500007436", "pay_bankapp_123")


@pytest.mark.parametrize(
    ("error", "lane", "queued_at"),
    [
        ("ServiceUnavailable", "healing", "2026-11-22T10:05:01.000Z"),
        ("PaymentConflict", "operator", "2026-11-22T10:00:01.000Z"),
    ],
)
def test_a_resolved_delivery_that_fails_again_is_reopened(
    task: Task, error_log: Table, failed: Put, failure: Json, error: str, lane: str, queued_at: str
) -> None:
    first = failed(None, status="resolved", attempts=2)
    failure["report"]["failure"] = {"InvokeProcessPaid": {"Error": error, "Cause": ""}}
    task.handler(failure, None)
    item = only(error_log)
    assert (item["status"], item["error"]) == ("open", error)
    assert (item["queue"], item["queuedAt"]) == (f"BankApp#3#{lane}", queued_at)
    # It keeps the time of its first failure, and gets all its attempts again.
    assert (item["occurredAt"], item["attempts"]) == (first["occurredAt"], 0)


def test_a_write_that_is_throttled_once_is_made_once_more(
    load: Load, service: Service, pauses: list[float], failure: Json
) -> None:
    task = load("write_error_log", AWS_ENDPOINT_URL=service.url)
    service.refuses_once("ThrottlingException", 400)
    service.answers(200, b'{"Attributes": {}}')
    assert task.handler(failure, context()) == {"reported": True}
    assert operations(service) == ["UpdateItem", "UpdateItem"]
    assert pauses == [0.1]


def test_a_claim_made_between_the_two_writes_is_kept(
    task: Task, error_log: Table, failed: Put, failure: Json, before_call: BeforeCall
) -> None:
    failed(None, status="resolved")
    before_call(task.ErrorLog, "UpdateItem", lambda: failed(status="redriven", attempts=3))
    task.handler(failure, None)
    item = only(error_log)
    assert (item["status"], item["attempts"]) == ("redriven", 3)
    assert item["executionArn"] == failure["report"]["executionArn"]


def test_the_failures_of_an_order_are_read_by_one_query(task: Task, error_log: Table, failure: Json) -> None:
    task.handler(failure, None)
    task.handler({**failure, "event": {"requestId": "of no order"}}, None)
    found = error_log.query(IndexName="byOrder", KeyConditionExpression=Key("orderId").eq("482500007436"))
    assert [item["requestId"] for item in found["Items"]] == ["8f7e6d5c"]


def test_an_error_without_a_cause_is_kept(task: Task, error_log: Table, failure: Json) -> None:
    failure["report"]["failure"] = {"ValidateCallback": {"Error": "States.Timeout"}}
    task.handler(failure, None)
    item = only(error_log)
    assert (item["step"], item["error"], item["cause"]) == (
        "ValidateCallback",
        "States.Timeout",
        "",
    )
