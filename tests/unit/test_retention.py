"""When items expire: refusals, records and resolved failures do; a failure that is not resolved never."""

from typing import Any

import pytest

from callbacks import times
from callbacks.queues import Lane
from tests.sources import TABLES
from tests.unit.kit import Json, Load, Put, Table, context, only
from tests.unit.test_claim_failure import DECISION, DISMISSAL, MANUAL
from tests.unit.test_save_callback_record import delivered
from tests.unit.test_save_callback_record import event as to_save
from tests.unit.test_settle_failure import DONE, FAILED, TIMED_OUT, event

DAY = 24 * 60 * 60
REFUSED_AT = 1795341601  # The failure's occurredAt.
NOT_STARTED = {"Error": "Sfn.SfnException", "Cause": "Rate exceeded"}
DISMISSED = {"dismissal": "dismissed by arn:of:nan"}


def in_days(days: float) -> int:
    return int(times.now().timestamp() + days * DAY)


def is_in_days(moment: Any, days: int) -> bool:
    return abs(int(moment) - in_days(days)) < 60


def fails(failure: Json, error: str) -> Json:
    failure["report"]["failure"] = {"ValidateCallback": {"Error": error, "Cause": ""}}
    return failure


# Refusals


@pytest.mark.parametrize("error", ["InvalidCallback", "InvalidSignature"])
def test_a_callback_that_is_refused_at_once_expires(load: Load, error_log: Table, failure: Json, error: str) -> None:
    load("write_error_log", REFUSAL_RETENTION_DAYS="30").handler(fails(failure, error), None)
    assert only(error_log)["expiration"] == REFUSED_AT + 30 * DAY


@pytest.mark.parametrize("error", ["PaymentConflict", "PaymentMismatch", "OrderNotFound", "ServiceUnavailable"])
def test_no_other_failure_expires(load: Load, error_log: Table, failure: Json, error: str) -> None:
    load("write_error_log").handler(fails(failure, error), None)
    assert "expiration" not in only(error_log)


def test_a_delivery_that_was_accepted_does_not_expire_when_its_redrive_is_refused(
    load: Load, error_log: Table, failed: Put, failure: Json
) -> None:
    failed(status="redriven", attempts=1)
    load("write_error_log").handler(fails(failure, "InvalidCallback"), None)
    assert only(error_log)["error"] == "InvalidCallback"
    assert "expiration" not in only(error_log)


@pytest.mark.parametrize(("error", "expires"), [("InvalidSignature", True), ("ServiceUnavailable", False)])
def test_a_refusal_expires_as_before_only_if_its_redrive_is_refused_too(
    load: Load, error_log: Table, failed: Put, failure: Json, error: str, expires: bool
) -> None:
    failed(status="redriven", attempts=1, error="InvalidSignature", expiration=REFUSED_AT)
    load("write_error_log").handler(fails(failure, error), None)
    assert only(error_log).get("expiration") == (REFUSED_AT if expires else None)


@pytest.mark.parametrize(
    ("days_left", "days"), [(-2, 14), (13, 14), (15, 15)], ids=["expired", "expires soon", "expires later"]
)
def test_a_refusal_does_not_expire_during_its_redrive(
    load: Load, error_log: Table, failed: Put, days_left: int, days: int
) -> None:
    failed(Lane.OPERATOR, error="InvalidSignature", expiration=in_days(days_left))
    assert load("claim_failure").handler(MANUAL, None)["plan"] == "redrive"
    assert is_in_days(only(error_log)["expiration"], days)


@pytest.mark.parametrize(
    ("run", "expires"),
    [
        (FAILED, True),
        (DISMISSED, True),
        (NOT_STARTED, True),
        (DONE, False),
        # Nobody knows how far it came.
        (TIMED_OUT, False),
        ({"reason": "The last attempt left no result"}, False),
    ],
    ids=["refused", "dismissed", "not started", "done", "timed out", "given up"],
)
def test_a_redrive_with_another_outcome_keeps_a_refusal_for_ever(
    load: Load, error_log: Table, failed: Put, run: Json, expires: bool
) -> None:
    failed(status="redriven", attempts=1, error="InvalidSignature", expiration=REFUSED_AT)
    load("settle_failure").handler(event(run), None)
    assert only(error_log).get("expiration") == (REFUSED_AT if expires else None)


@pytest.mark.parametrize("decision", [DECISION, DISMISSAL], ids=["again", "dismiss"])
def test_a_resolved_failure_that_an_operator_takes_up_again_does_not_expire(
    load: Load, error_log: Table, failed: Put, decision: Json
) -> None:
    failed(None, status="resolved", expiration=in_days(1))
    load("claim_failure").handler({**MANUAL, "decision": decision}, None)
    assert "expiration" not in only(error_log)


def test_a_resolved_failure_that_fails_again_does_not_expire(
    load: Load, error_log: Table, failed: Put, failure: Json
) -> None:
    failed(None, status="resolved", expiration=in_days(1))
    load("write_error_log").handler(failure, None)
    assert (only(error_log)["status"], "expiration" in only(error_log)) == ("open", False)


# Records and resolved failures


@pytest.mark.parametrize("is_paid", [True, False])
@pytest.mark.parametrize("days", [0, 90])
def test_a_record_expires_so_many_days_after_it_is_stored(
    load: Load, records: Table, callback: Json, days: int, is_paid: bool
) -> None:
    task = load("save_callback_record", RECORD_RETENTION_DAYS=str(days))
    task.handler(to_save(callback, delivered(success=is_paid)), context())
    expiration = only(records).get("expiration")
    assert expiration is None if days == 0 else is_in_days(expiration, days)


@pytest.mark.parametrize("days", [0, 90])
@pytest.mark.parametrize("run", [DONE, DISMISSED], ids=["done", "dismissed"])
def test_a_resolved_failure_expires_so_many_days_after_it_is_resolved(
    load: Load, error_log: Table, failed: Put, run: Json, days: int
) -> None:
    failed(status="redriven", attempts=1)
    load("settle_failure", RECORD_RETENTION_DAYS=str(days)).handler(event(run), None)
    expiration = only(error_log).get("expiration")
    assert expiration is None if days == 0 else is_in_days(expiration, days)


@pytest.mark.parametrize("run", [FAILED, TIMED_OUT], ids=["failed", "timed out"])
def test_a_failure_that_is_not_resolved_never_expires(load: Load, error_log: Table, failed: Put, run: Json) -> None:
    failed(status="redriven", attempts=1)
    load("settle_failure", RECORD_RETENTION_DAYS="90").handler(event(run), None)
    assert "expiration" not in only(error_log)


def test_healing_has_weeks_to_find_a_record_before_it_expires(template: Json) -> None:
    _, shortest, *_ = template["Parameters"]["RecordRetentionDays"]["AllowedValues"]
    parked = template["Resources"]["ParkedQueue"]["Properties"]["MessageRetentionPeriod"]
    assert shortest * DAY > 6 * parked


@pytest.mark.parametrize("name", TABLES)
def test_dynamodb_deletes_what_has_expired_but_nothing_of_the_ledger(template: Json, name: str) -> None:
    properties = template["Resources"][name]["Properties"]
    expiring = {"AttributeName": "expiration", "Enabled": True}
    assert properties.get("TimeToLiveSpecification") == (None if name == "PaymentLedgerTable" else expiring)
