"""Alerts stay readable: the first failure of a kind is e-mailed at once, those that follow are counted."""

import time
from types import SimpleNamespace

import pytest

from tests.outcomes import body_of
from tests.workflow.account import SAVE_RECORD, SEND_MAIL, Workflow

WINDOW_SECONDS = 15 * 60
COUNT_ALERT = ("UpdateItem", '"TableName": "payment3-callback-alert-test"')


class Clock:
    """The time as the alert window sees it."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(
        workflow.functions.module_global("SendErrorEmail", "alerts"), "time", SimpleNamespace(time=clock.time)
    )
    return clock


def fail(workflow: Workflow, times: int = 1, name: str = "missing-fields") -> None:
    for _ in range(times):
        assert workflow.run({"body": body_of(name)}).answer[0] == 500


def test_a_flood_of_failures_is_one_mail_and_all_are_in_the_error_log(workflow: Workflow) -> None:
    fail(workflow, 12)

    assert len(workflow.mails) == 1
    assert len(workflow.errors) == 12
    events = workflow.sentry.events
    assert len(events) == 12
    assert len({tuple(event["fingerprint"]) for event in events}) == 1


def test_the_next_mail_says_how_many_failures_it_suppressed(workflow: Workflow, clock: Clock) -> None:
    fail(workflow, 6)
    clock.now += WINDOW_SECONDS + 1
    fail(workflow)
    clock.now += WINDOW_SECONDS + 1
    fail(workflow)

    first, second, third = (mail.body for mail in workflow.mails)
    assert "since the last e-mail" not in first
    assert "5 more since the last e-mail" in second
    assert "since the last e-mail" not in third


def test_no_mail_goes_out_before_the_window_ends(workflow: Workflow, clock: Clock) -> None:
    fail(workflow)
    clock.now += WINDOW_SECONDS - 2
    fail(workflow)

    assert len(workflow.mails) == 1


def test_a_failure_of_another_kind_is_mailed_at_once(workflow: Workflow) -> None:
    fail(workflow, 2)
    workflow.aws.refuse(SAVE_RECORD, "ThrottlingException", times=4)
    fail(workflow, 2, name="paid")

    subjects = [mail.subject for mail in workflow.mails]
    assert subjects == [
        "[test] BankApp callback: InvalidCallback",
        "[test] BankApp callback: ServiceUnavailable",
    ]


@pytest.mark.parametrize("code", ["ThrottlingException", "AccessDeniedException"])
def test_a_window_that_cannot_be_read_suppresses_no_mail(workflow: Workflow, code: str) -> None:
    workflow.aws.refuse(COUNT_ALERT, code)
    fail(workflow, 3)

    assert len(workflow.mails) == 3


def test_a_failure_that_cannot_be_counted_is_mailed(workflow: Workflow) -> None:
    fail(workflow)
    workflow.aws.refuse((*COUNT_ALERT, "ADD "), "ThrottlingException", times=2)
    fail(workflow)

    assert len(workflow.mails) == 2


def test_a_mail_that_cannot_be_sent_leaves_its_count_to_the_next(workflow: Workflow, clock: Clock) -> None:
    fail(workflow, 4)
    clock.now += WINDOW_SECONDS + 1
    workflow.aws.refuse(SEND_MAIL, "Throttling", times=2)
    fail(workflow)
    fail(workflow)

    assert [("3 more since the last e-mail" in mail.body) for mail in workflow.mails] == [False, True]


def test_a_window_that_cannot_be_closed_does_not_hide_why_the_mail_failed(workflow: Workflow) -> None:
    workflow.aws.refuse(SEND_MAIL, "Throttling", times=2)
    # Only the update that restores the count adds one attribute to another.
    workflow.aws.refuse((*COUNT_ALERT, " + "), "ThrottlingException", times=1)
    execution = workflow.run({"body": body_of("missing-fields")})

    assert {"reported": False, "error": "ServiceUnavailable"} in execution.reports
    assert workflow.mails == []
