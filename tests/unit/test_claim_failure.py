import json
import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from pynamodb.exceptions import DoesNotExist

from callbacks import times
from callbacks.queues import AUTOMATIC, Lane
from tests.unit.kit import BeforeCall, Json, Load, Put, Table, Task, from_now, items, only, reported

SCHEDULED = {"requestId": "8f7e6d5c", "isManual": False}
MANUAL = {"requestId": "8f7e6d5c", "isManual": True}


@pytest.fixture
def task(load: Load, tables: dict[str, str]) -> Task:
    return load("claim_failure", ERROR_LOG_TABLE=tables["CallbackErrorLogTable"])


def test_a_due_failure_is_claimed_and_returned_with_the_input_of_its_redrive(
    task: Task, error_log: Table, failed: Put
) -> None:
    before = failed()
    earliest = times.now() + timedelta(minutes=5, milliseconds=-1)
    claim = task.handler(SCHEDULED, None)
    delivery = json.loads(claim.pop("input"))
    assert claim == {
        "plan": "redrive",
        "status": "redriven",
        "attempt": 1,
        "lane": "healing",
        "reason": None,
        "executionName": "8f7e6d5c-redrive-1",
    }
    assert delivery == {
        "body": "{}",
        "sourceIp": "203.0.113.7",
        "requestId": "8f7e6d5c",
        "receivedAt": 1577872800000,
    }
    after = only(error_log)
    # The claim of a run that dies expires in five minutes.
    lease = datetime.fromisoformat(after["queuedAt"])
    assert earliest <= lease <= times.now() + timedelta(minutes=5)
    assert after == {**before, "status": "redriven", "attempts": 1, "queuedAt": after["queuedAt"]}


@pytest.mark.parametrize("waits_in", [*Lane, None])
@pytest.mark.parametrize("lane", AUTOMATIC)
def test_a_claimed_failure_waits_for_its_expiry_in_its_automatic_lane(
    task: Task, error_log: Table, failed: Put, waits_in: Lane | None, lane: Lane
) -> None:
    failed(waits_in, lane=lane, status="resolved" if waits_in is None else "open")
    assert decide(task, DECISION)["plan"] == "redrive"
    assert only(error_log)["queue"] == f"BankApp#3#{lane}"


# Whether it can be claimed

DUE, LATER, OPERATOR, GIVEN_UP, DONE = "due", "later", "an operator's", "given up", "done"


@pytest.fixture
def waiting(failed: Put) -> Put:
    """Put a failure into the error log that waits for what `queue` says."""

    def put(queue: str, **changes: Any) -> Json:
        lane = {OPERATOR: Lane.OPERATOR, GIVEN_UP: Lane.GIVEN_UP, DONE: None}.get(queue, Lane.HEALING)
        due = {"queuedAt": from_now(minutes=1)} if queue == LATER else {}
        return failed(lane, **due, **changes)

    return put


@pytest.mark.parametrize(
    ("status", "queue", "by_schedule", "by_operator"),
    [
        ("open", DUE, True, True),
        ("open", LATER, False, True),
        # A refusal: only an operator can know that it will be accepted now.
        ("open", OPERATOR, False, True),
        # Its claim has expired.
        ("redriven", DUE, True, True),
        ("redriven", LATER, False, False),
        ("given up", GIVEN_UP, False, True),
        ("resolved", DONE, False, False),
    ],
)
@pytest.mark.parametrize("is_manual", [False, True], ids=["by the schedule", "by an operator"])
def test_the_schedule_claims_what_is_due_an_operator_all_that_is_not_in_hand(
    task: Task,
    error_log: Table,
    waiting: Put,
    status: str,
    queue: str,
    by_schedule: bool,
    by_operator: bool,
    is_manual: bool,
) -> None:
    before = waiting(queue, status=status, attempts=1)
    claim = task.handler(MANUAL if is_manual else SCHEDULED, None)
    if by_operator if is_manual else by_schedule:
        assert (claim["plan"], claim["status"], claim["attempt"]) == ("redrive", "redriven", 2)
    else:
        assert claim == {"plan": "skip", "status": status}
        assert only(error_log) == before


def test_a_claimed_failure_is_not_claimed_again_during_its_redrive(task: Task, failed: Put) -> None:
    failed()
    assert task.handler(SCHEDULED, None)["plan"] == "redrive"
    for event in (SCHEDULED, MANUAL):
        assert task.handler(event, None) == {"plan": "skip", "status": "redriven"}


@pytest.mark.parametrize("event", [SCHEDULED, MANUAL], ids=["by the schedule", "by an operator"])
def test_only_one_of_two_concurrent_runs_claims_a_failure(
    task: Task, error_log: Table, failed: Put, before_call: BeforeCall, event: Json
) -> None:
    failed()
    faster: list[Json] = []
    before_call(task.ErrorLog, "UpdateItem", lambda: faster.append(task.handler(SCHEDULED, None)))
    assert task.handler(event, None) == {"plan": "skip", "status": "open"}
    assert [claim["plan"] for claim in faster] == ["redrive"]
    assert only(error_log)["attempts"] == 1


@pytest.mark.parametrize(
    "change", [{"status": "resolved"}, {"attempts": 2}, {"queuedAt": "2020-01-01T10:06:00.000Z"}], ids=str
)
def test_a_failure_that_changes_meanwhile_in_one_respect_is_not_claimed(
    task: Task, error_log: Table, failed: Put, before_call: BeforeCall, change: Json
) -> None:
    before = failed(status="redriven", attempts=1)
    before_call(task.ErrorLog, "UpdateItem", lambda: failed(**{**before, **change}))
    assert task.handler(SCHEDULED, None)["plan"] == "skip"
    assert only(error_log) == {**before, **change}


@pytest.mark.parametrize(("attempts", "event"), [(6, SCHEDULED), (7, SCHEDULED), (7, MANUAL), (8, MANUAL), (9, MANUAL)])
def test_each_attempt_is_counted_and_gets_a_lease(
    task: Task, error_log: Table, failed: Put, attempts: int, event: Json
) -> None:
    failed(attempts=attempts)
    claim = task.handler(event, None)
    assert (claim["plan"], claim["attempt"]) == ("redrive", attempts + 1)
    after = only(error_log)
    assert (after["status"], after["attempts"]) == ("redriven", attempts + 1)
    assert from_now(minutes=4) < after["queuedAt"] <= from_now(minutes=5)


@pytest.mark.parametrize(("lane", "attempts"), [("healing", 8), ("healing", 9), ("unconfirmed", 3)])
def test_a_last_attempt_with_an_expired_lease_is_claimed_but_not_repeated(
    task: Task, error_log: Table, failed: Put, lane: str, attempts: int
) -> None:
    failed(status="redriven", lane=lane, attempts=attempts)
    claim = task.handler(SCHEDULED, None)
    assert (claim["plan"], claim["attempt"]) == ("give up", attempts)
    assert only(error_log)["attempts"] == attempts
    # The claim excludes other runs although the number stays the same.
    assert task.handler(SCHEDULED, None) == {"plan": "skip", "status": "redriven"}


def test_only_one_of_two_runs_claims_a_last_attempt_without_a_result(
    task: Task, failed: Put, before_call: BeforeCall
) -> None:
    failed(status="redriven", attempts=8)
    faster: list[Json] = []
    before_call(task.ErrorLog, "UpdateItem", lambda: faster.append(task.handler(SCHEDULED, None)))
    assert task.handler(SCHEDULED, None)["plan"] == "skip"
    assert [claim["plan"] for claim in faster] == ["give up"]


@pytest.mark.parametrize("attempts", [8, 9])
def test_a_failure_beyond_a_lowered_limit_is_redriven_once_more(task: Task, failed: Put, attempts: int) -> None:
    failed(attempts=attempts)
    claim = task.handler(SCHEDULED, None)
    assert (claim["plan"], claim["attempt"]) == ("redrive", attempts + 1)


@pytest.mark.parametrize("event", [SCHEDULED, MANUAL], ids=["by the schedule", "by an operator"])
def test_a_delivery_that_is_too_large_is_not_redriven_but_reported(
    task: Task, error_log: Table, failed: Put, event: Json
) -> None:
    failed(event=json.dumps({"body": '{"orderId": "1", "x": "' + "x" * 130_000, "headers": {"x": "y"}}))
    claim = task.handler(event, None)
    assert (claim["plan"], claim["attempt"]) == ("give up", 0)
    assert claim["reason"] == "The delivery is too large to redrive"
    excerpt = json.loads(claim["input"])
    assert excerpt["body"].startswith('{"orderId": "1"')
    assert (len(excerpt["body"]), excerpt["headers"], excerpt["requestId"]) == (4096, {}, "8f7e6d5c")
    assert only(error_log)["attempts"] == 0


@pytest.mark.parametrize("delivery", [None, "x" * 130_000, {"headers": "x" * 130_000}, {"body": ["x" * 130_000]}])
def test_the_report_of_a_delivery_that_is_too_large_is_short(task: Task, failed: Put, delivery: Any) -> None:
    failed(event=json.dumps(delivery))
    assert len(task.handler(SCHEDULED, None)["input"]) < 5000


CUT = {"body": '{"orderId": "1"', "bodyLength": 9000, "sourceIp": "203.0.113.7"}


@pytest.mark.parametrize("action", [None, "again", "accept", "despite"])
def test_a_delivery_whose_body_was_not_kept_is_left_as_it_is(
    task: Task, error_log: Table, failed: Put, action: str | None
) -> None:
    before = failed(Lane.OPERATOR, error="InvalidSignature", event=json.dumps(CUT))
    claim = decide(task, DECISION | {"action": action}) if action else task.handler(MANUAL, None)
    assert claim == {"plan": "skip", "status": "body not kept"}
    assert only(error_log) == before


@pytest.mark.parametrize("event", [SCHEDULED, MANUAL], ids=["by the schedule", "by an operator"])
def test_a_cut_delivery_that_is_due_is_given_up(task: Task, error_log: Table, failed: Put, event: Json) -> None:
    failed(event=json.dumps(CUT))
    claim = task.handler(event, None)
    assert (claim["plan"], claim["attempt"], claim["reason"]) == ("give up", 0, "body not kept")
    assert only(error_log)["attempts"] == 0


def test_a_delivery_whose_body_was_not_kept_can_be_dismissed(task: Task, error_log: Table, failed: Put) -> None:
    failed(Lane.OPERATOR, error="InvalidSignature", event=json.dumps(CUT))
    assert decide(task, DISMISSAL)["plan"] == "dismiss"
    assert only(error_log)["status"] == "redriven"


# The input of the redrive


def test_a_redrive_gets_the_original_delivery_with_its_recorded_id_and_time(task: Task, failed: Put) -> None:
    delivery = {"body": "ชำระ 🎉 \ud83c", "requestId": "", "receivedAt": "never", "headers": {"user-agent": "Bank"}}
    failed(event=json.dumps(delivery))
    assert json.loads(task.handler(SCHEDULED, None)["input"]) == {
        **delivery,
        "requestId": "8f7e6d5c",
        "receivedAt": 1577872800000,
    }


@pytest.mark.parametrize("delivery", [None, 7, "text", ["body"]])
def test_an_input_that_was_no_delivery_is_redriven_unchanged(task: Task, failed: Put, delivery: Any) -> None:
    failed(event=json.dumps(delivery))
    assert json.loads(task.handler(MANUAL, None)["input"]) == delivery


@pytest.mark.parametrize(
    "identity",
    [
        {},
        {"requestId": "x" * 129},
        {"requestId": "own", "receivedAt": 1795341600009},
        {"headers": {"user-agent": "Bank", "webhook-id": "msg_1", "webhook-signature": "v1,c2lnbmVk"}},
    ],
    ids=["none", "unusable", "own", "signed"],
)
def test_a_redrive_keeps_the_delivery_id_and_the_error_log_item(
    load: Load, task: Task, error_log: Table, failure: Json, identity: Json
) -> None:
    failure["event"] = {"body": failure["event"]["body"], **identity}
    execution = {"executionName": failure["report"]["executionName"], "startedAt": failure["report"]["startedAt"]}
    validate = load("validate_callback").handler
    report = load("write_error_log").handler
    first = validate({"delivery": failure["event"], **execution}, None)
    report(failure, None)
    claim = task.handler({"requestId": only(error_log)["requestId"], "isManual": True}, None)
    redriven = json.loads(claim["input"])
    again = {"executionName": claim["executionName"], "startedAt": "2026-11-23T00:00:00.000Z"}
    assert validate({"delivery": redriven, **again}, None) == first
    report({**reported(failure, **again), "event": redriven}, None)
    assert only(error_log)["receivedAt"] == first["receivedAt"]


@pytest.mark.parametrize(
    ("request_id", "name"),
    [
        ("8f7e6d5c-5b2f-4f6c-9a57-0a4f0d3f2f4e", "8f7e6d5c-5b2f-4f6c-9a57-0a4f0d3f2f4e-redrive-3"),
        ("a b:c/d#ก_e", "a-b-c-d--_e-redrive-3"),
        ("x" * 61, "x" * 60 + "-redrive-3"),
        ("x" * 128, "x" * 60 + "-redrive-3"),
    ],
)
def test_the_execution_gets_a_valid_name_that_contains_the_request_id(
    task: Task, failed: Put, request_id: str, name: str
) -> None:
    failed(requestId=request_id, attempts=2)
    claim = task.handler({"requestId": request_id, "isManual": False}, None)
    assert claim["executionName"] == name
    assert re.fullmatch("[A-Za-z0-9_-]{1,80}", name)


def test_an_unknown_failure_is_an_error(task: Task, error_log: Table) -> None:
    with pytest.raises(DoesNotExist):
        task.handler(SCHEDULED, None)
    assert items(error_log) == []


# An operator's decision

DECISION = {"id": "decision-1", "action": "again", "by": "arn:of:nan", "reason": "no trace in the log"}
DISMISSAL = DECISION | {"action": "dismiss"}


def decide(task: Task, decision: Json) -> Json:
    claim: Json = task.handler({**MANUAL, "decision": decision}, None)
    return claim


@pytest.mark.parametrize("action", ["again", "accept"])
def test_a_decision_is_kept_and_its_permit_is_in_the_input(
    task: Task, error_log: Table, failed: Put, action: str
) -> None:
    failed(attempts=3)
    claim = decide(task, DECISION | {"action": action})
    assert (claim["plan"], claim["attempt"], claim["reason"]) == ("redrive", 4, None)
    assert json.loads(claim["input"])["decision"] == {"id": "decision-1", "action": action}
    (kept,) = only(error_log)["decisions"]
    assert from_now(minutes=-1) < kept.pop("at") <= from_now()
    assert kept == DECISION | {"action": action, "attempt": 4}


def test_a_dismissal_is_kept_and_redrives_nothing(task: Task, error_log: Table, failed: Put) -> None:
    failed(attempts=3)
    claim = decide(task, DISMISSAL)
    assert (claim["plan"], claim["attempt"], claim["reason"]) == ("dismiss", 3, "dismissed by arn:of:nan")
    after = only(error_log)
    assert (after["attempts"], after["decisions"][0]["action"]) == (3, "dismiss")


def test_each_decision_is_kept(task: Task, error_log: Table, failed: Put) -> None:
    failed()
    decide(task, DECISION)
    failed(None, **{**only(error_log), "status": "resolved", "queue": None, "queuedAt": None})
    decide(task, DISMISSAL | {"id": "decision-2"})
    assert [entry["id"] for entry in only(error_log)["decisions"]] == ["decision-1", "decision-2"]


@pytest.mark.parametrize(
    ("status", "queue", "is_claimed"),
    [
        ("open", OPERATOR, True),
        ("open", LATER, True),
        ("given up", GIVEN_UP, True),
        ("resolved", DONE, True),
        ("redriven", DUE, True),
        ("redriven", LATER, False),
    ],
)
@pytest.mark.parametrize("decision", [DECISION, DISMISSAL], ids=["again", "dismiss"])
def test_an_operator_decides_on_any_failure_that_is_not_being_redriven(
    task: Task, error_log: Table, waiting: Put, status: str, queue: str, is_claimed: bool, decision: Json
) -> None:
    waiting(queue, status=status)
    assert (decide(task, decision)["plan"] != "skip") == is_claimed
    assert ("decisions" in only(error_log)) == is_claimed


def test_a_decision_is_carried_out_once(task: Task, error_log: Table, failed: Put) -> None:
    failed()
    decide(task, DECISION)
    before = failed(None, **{**only(error_log), "status": "resolved", "queue": None, "queuedAt": None})
    assert decide(task, DECISION) == {"plan": "skip", "status": "resolved"}
    assert only(error_log) == before


def test_the_permit_of_a_failed_decision_does_not_count_again(task: Task, failed: Put) -> None:
    failed(event=json.dumps({"body": "{}", "decision": {"id": "decision-1", "action": "again"}}))
    assert "decision" not in json.loads(task.handler(MANUAL, None)["input"])


def test_a_decided_redrive_without_a_result_is_given_up(task: Task, error_log: Table, failed: Put) -> None:
    failed()
    decide(task, DECISION)
    failed(**{**only(error_log), "queuedAt": from_now(seconds=-1)})
    claim = task.handler(SCHEDULED, None)
    assert (claim["plan"], claim["attempt"], claim["reason"]) == ("give up", 1, "The last attempt left no result")


@pytest.mark.parametrize(("decision", "word"), [(DECISION, "redrive"), (DISMISSAL, "dismiss")])
def test_an_operator_decides_on_a_last_attempt_without_a_result(
    task: Task, failed: Put, decision: Json, word: str
) -> None:
    failed(status="redriven", attempts=8)
    assert decide(task, decision)["plan"] == word


@pytest.mark.parametrize(("decision", "word"), [(DECISION, "give up"), (DISMISSAL, "dismiss")])
def test_a_delivery_too_large_to_redrive_can_only_be_dismissed(
    task: Task, failed: Put, decision: Json, word: str
) -> None:
    failed(event=json.dumps({"body": "x" * 130_000}))
    claim = decide(task, decision)
    assert claim["plan"] == word
    assert len(claim["input"]) < 5000


def test_a_decision_that_another_run_overtakes_is_not_kept(
    task: Task, error_log: Table, failed: Put, before_call: BeforeCall
) -> None:
    failed()
    before_call(task.ErrorLog, "UpdateItem", lambda: task.handler(SCHEDULED, None))
    assert decide(task, DECISION)["plan"] == "skip"
    assert "decisions" not in only(error_log)


@pytest.mark.parametrize("delivery", [None, 7, "text", ["body"]])
def test_an_input_that_was_no_delivery_gets_no_permit(task: Task, failed: Put, delivery: Any) -> None:
    failed(event=json.dumps(delivery))
    assert json.loads(decide(task, DECISION)["input"]) == delivery
