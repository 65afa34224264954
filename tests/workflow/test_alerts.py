"""Alerts stay few and lose nothing: the first failure of a kind is reported at once, those that follow are counted."""

import re
import time
from types import SimpleNamespace
from typing import Any

import pytest

from tests.outcomes import body_of
from tests.workflow.account import SAVE_RECORD, SEND_MAIL, Workflow, kill_process

WINDOW_SECONDS = 15 * 60
ALERT_TABLE = '"TableName": "payment3-callback-alert-test"'
COUNT_FAILURE = ("UpdateItem", ALERT_TABLE, "ADD ")
READ_COUNTS = ("DynamoDB_20120810.Scan", ALERT_TABLE)


class Clock:
    """The time as the alert windows see it."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        return self.now

    def end_windows(self) -> None:
        """Let all windows end that are open."""
        self.now += WINDOW_SECONDS + 1


@pytest.fixture
def clock(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(
        workflow.functions.module_global("ReportToSentry", "windows"), "time", SimpleNamespace(time=clock.time)
    )
    report_suppressed = workflow.functions.module_global("ReportSuppressed", "handler").__globals__
    monkeypatch.setitem(report_suppressed, "time", SimpleNamespace(time=clock.time))
    return clock


def fail(workflow: Workflow, times: int = 1, name: str = "missing-fields") -> None:
    for _ in range(times):
        assert workflow.run({"body": body_of(name)}).answer[0] == 500


def subjects(workflow: Workflow) -> list[str]:
    return [mail.subject.removeprefix("[test] BankApp callback: ") for mail in workflow.mails]


def messages(workflow: Workflow) -> list[str]:
    """Return the messages of the Sentry events."""
    return [event["exception"]["values"][0]["value"] for event in workflow.sentry.events]


def rows_of(mail: Any) -> list[list[str]]:
    """Return the cells of the list in an e-mail, whose HTML is all that moto keeps."""
    return [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr>(<td>.*?)</tr>", mail.body)]


def heal(workflow: Workflow) -> Any:
    healing = workflow.heal()
    assert healing.status == "SUCCEEDED"
    return healing


def test_a_flood_of_failures_is_one_mail_and_one_event(workflow: Workflow) -> None:
    fail(workflow, 12)

    assert len(workflow.mails) == len(workflow.sentry.events) == 1
    assert len(workflow.errors) == 12


def test_healing_reports_how_many_failures_a_burst_had_after_the_first(workflow: Workflow, clock: Clock) -> None:
    fail(workflow, 6)
    heal(workflow)
    assert len(workflow.mails) == 1
    clock.end_windows()
    heal(workflow)

    assert subjects(workflow) == ["InvalidCallback", "5 more failed"]
    (row,) = rows_of(workflow.mails[-1])
    assert row[:3] == ["InvalidCallback", "ValidateCallback", "5 more"]
    assert row[6] in {failure["requestId"] for failure in workflow.errors}
    event = workflow.sentry.events[-1]
    assert event["fingerprint"] == ["bankappcallback", "ValidateCallback", "InvalidCallback"]
    assert messages(workflow)[-1].startswith("5 more since 20")
    heal(workflow)
    assert (len(workflow.mails), len(workflow.sentry.events)) == (2, 2)


def test_a_window_without_further_failures_needs_no_mail(workflow: Workflow, clock: Clock) -> None:
    fail(workflow)
    clock.end_windows()
    heal(workflow)

    assert subjects(workflow) == ["InvalidCallback"]


def test_each_window_of_a_lasting_burst_is_reported(workflow: Workflow, clock: Clock) -> None:
    for failures in (3, 4):
        fail(workflow, failures)
        clock.end_windows()
    heal(workflow)

    assert subjects(workflow) == ["InvalidCallback", "InvalidCallback", "5 more failed"]


def test_no_report_is_made_before_the_window_ends(workflow: Workflow, clock: Clock) -> None:
    fail(workflow)
    clock.now += WINDOW_SECONDS - 2
    fail(workflow)

    assert len(workflow.mails) == len(workflow.sentry.events) == 1


def test_a_failure_of_another_kind_is_reported_at_once(workflow: Workflow, clock: Clock) -> None:
    fail(workflow, 2)
    workflow.aws.refuse(SAVE_RECORD, "ThrottlingException", times=4)
    fail(workflow, 2, name="paid")

    assert subjects(workflow) == ["InvalidCallback", "ServiceUnavailable"]
    assert [event["fingerprint"][-1] for event in workflow.sentry.events] == ["InvalidCallback", "ServiceUnavailable"]
    clock.end_windows()
    heal(workflow)
    assert subjects(workflow)[2] == "2 more failed"
    assert [row[:3] for row in rows_of(workflow.mails[2])] == [
        ["ServiceUnavailable", "SaveCallbackRecord", "1 more"],
        ["InvalidCallback", "ValidateCallback", "1 more"],
    ]


@pytest.mark.parametrize("code", ["ThrottlingException", "AccessDeniedException"])
def test_each_container_mails_once_while_the_alert_table_is_down(workflow: Workflow, code: str) -> None:
    workflow.aws.refuse(("in SendErrorEmail:", ALERT_TABLE), code)
    fail(workflow, 30)
    assert len(workflow.mails) == 1
    workflow.functions.replace_container("SendErrorEmail")
    fail(workflow, 3)

    assert len(workflow.mails) == 2


def test_what_could_not_be_counted_is_counted_later(workflow: Workflow, clock: Clock) -> None:
    fail(workflow)
    workflow.aws.refuse(COUNT_FAILURE, "ThrottlingException", times=3)
    fail(workflow, 4)
    clock.end_windows()
    heal(workflow)

    assert subjects(workflow) == ["InvalidCallback", "4 more failed"]


def test_failures_of_several_containers_are_one_mail_and_one_count(workflow: Workflow, clock: Clock) -> None:
    for _ in range(3):
        fail(workflow, 2)
        workflow.functions.replace_container("SendErrorEmail")
    clock.end_windows()
    heal(workflow)

    assert subjects(workflow) == ["InvalidCallback", "5 more failed"]


def test_a_mail_that_cannot_be_sent_leaves_its_window_to_the_next(workflow: Workflow) -> None:
    workflow.aws.refuse(SEND_MAIL, "Throttling", times=2)
    fail(workflow)
    assert workflow.mails == []
    fail(workflow, 2)

    assert len(workflow.mails) == len(workflow.sentry.events) == 1


def test_an_event_that_sentry_refuses_leaves_its_window_to_the_next(workflow: Workflow) -> None:
    workflow.sentry.status = 503
    fail(workflow)
    assert workflow.sentry.events == []
    workflow.recover()
    fail(workflow, 2)

    assert len(workflow.mails) == len(workflow.sentry.events) == 1


def test_a_window_that_cannot_be_closed_does_not_hide_why_the_mail_failed(workflow: Workflow) -> None:
    workflow.aws.refuse(SEND_MAIL, "Throttling", times=2)
    # Unlike the update that opens the window, the one that closes it sets no expiration.
    workflow.aws.refuse(
        ("UpdateItem", ALERT_TABLE, '"UpdateExpression": "SET #1 = :0"'), "ThrottlingException", times=1
    )
    execution = workflow.run({"body": body_of("missing-fields")})

    assert {"reported": False, "error": "ServiceUnavailable"} in execution.reports
    assert workflow.mails == []


@pytest.mark.parametrize("broken", ["mail", "Sentry"])
def test_a_count_that_one_report_cannot_tell_is_told_later_and_only_there(
    workflow: Workflow, clock: Clock, broken: str
) -> None:
    fail(workflow, 4)
    clock.end_windows()
    if broken == "mail":
        workflow.aws.refuse(SEND_MAIL, "Throttling", times=1)
    else:
        workflow.sentry.status = 503
    heal(workflow)
    assert (len(workflow.mails), len(workflow.sentry.events)) == ((1, 2) if broken == "mail" else (2, 1))
    workflow.recover()
    heal(workflow)
    heal(workflow)

    assert subjects(workflow)[1:] == ["3 more failed"]
    assert [message[:6] for message in messages(workflow)][1:] == ["3 more"]


def test_a_failure_that_is_counted_while_the_count_is_sent_is_reported_next(workflow: Workflow, clock: Clock) -> None:
    fail(workflow, 2)
    clock.end_windows()

    def count_late() -> None:
        clock.now -= WINDOW_SECONDS + 1
        fail(workflow, 8)
        clock.end_windows()

    workflow.aws.run_after(SEND_MAIL, count_late)
    heal(workflow)
    heal(workflow)

    assert subjects(workflow) == ["InvalidCallback", "1 more failed", "8 more failed"]
    assert sum(int(message.split()[0]) for message in messages(workflow)[1:]) == 9


@pytest.mark.parametrize("fault", ["unavailable", "killed"])
def test_healing_goes_on_if_the_counts_cannot_be_read(workflow: Workflow, clock: Clock, fault: str) -> None:
    fail(workflow, 2)
    clock.end_windows()
    if fault == "unavailable":
        workflow.aws.refuse(READ_COUNTS, "InternalServerError", 500)
    else:
        workflow.aws.run_after(READ_COUNTS, kill_process)
    healing = heal(workflow)
    assert {"ReportSuppressed", "FindFailures"} <= set(healing.states)
    workflow.recover()
    heal(workflow)

    assert subjects(workflow)[1:] == ["1 more failed"]


@pytest.mark.parametrize(
    "selection", [{"dryRun": True}, {"requestId": "r"}, {"orderId": "o"}, {"since": "2026-01-01T00:00Z"}]
)
def test_an_operators_run_reports_no_counts(workflow: Workflow, selection: dict[str, Any]) -> None:
    assert "ReportSuppressed" not in workflow.heal(**selection).states
