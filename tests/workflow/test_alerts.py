"""Alerts stay readable: the first failure of a kind is mailed at once, those that follow are counted."""

import time
from types import SimpleNamespace

import pytest

from tests.outcomes import body_of
from tests.workflow.account import SAVE_RECORD, SEND_MAIL, Workflow

WINDOW_SECONDS = 15 * 60
COUNT_ALERT = ("UpdateItem", '"TableName": "payment3-callback-alert-test"')


class Clock:
    """What the guard takes for the time."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(
        workflow.functions.imported_by("SendErrorEmail", "alerts"), "time", SimpleNamespace(time=clock.time)
    )
    return clock


def fail(workflow: Workflow, times: int = 1, name: str = "missing-fields") -> None:
    for _ in range(times):
        assert workflow.run({"body": body_of(name)}).answer[0] == 500


def test_a_flood_of_failures_is_one_mail_and_an_error_log_of_them_all(workflow: Workflow) -> None:
    fail(workflow, 30)

    assert len(workflow.mails) == 1
    assert len(workflow.errors) == 30
    events = workflow.sentry.events
    assert len(events) == 30
    assert len({tuple(event["fingerprint"]) for event in events}) == 1


def test_the_next_mail_says_how_many_were_not_mailed(workflow: Workflow, clock: Clock) -> None:
    fail(workflow, 6)
    clock.now += WINDOW_SECONDS + 1
    fail(workflow)
    clock.now += WINDOW_SECONDS + 1
    fail(workflow)

    first, second, third = (mail.body for mail in workflow.mails)
    assert "since the last mail" not in first
    assert "5 more since the last mail" in second
    assert "since the last mail" not in third


def test_nothing_is_mailed_before_the_window_ends(workflow: Workflow, clock: Clock) -> None:
    fail(workflow)
    clock.now += WINDOW_SECONDS - 2
    fail(workflow)

    assert len(workflow.mails) == 1


def test_another_kind_of_failure_is_mailed_at_once(workflow: Workflow) -> None:
    fail(workflow, 2)
    workflow.wire.refuse(SAVE_RECORD, "ThrottlingException", times=4)
    fail(workflow, 2, name="paid")

    subjects = [mail.subject for mail in workflow.mails]
    assert subjects == [
        "[test] BankApp callback failed: InvalidCallback",
        "[test] BankApp callback failed: ServiceUnavailable",
    ]


@pytest.mark.parametrize("code", ["ThrottlingException", "AccessDeniedException"])
def test_a_guard_that_cannot_be_read_silences_nobody(workflow: Workflow, code: str) -> None:
    workflow.wire.refuse(COUNT_ALERT, code)
    fail(workflow, 3)

    assert len(workflow.mails) == 3


def test_a_count_that_cannot_be_kept_is_mailed_instead(workflow: Workflow) -> None:
    fail(workflow)
    workflow.wire.refuse((*COUNT_ALERT, "ADD "), "ThrottlingException", times=2)
    fail(workflow)

    assert len(workflow.mails) == 2


def test_a_mail_that_did_not_go_out_leaves_its_turn_and_its_count_to_the_next(workflow: Workflow, clock: Clock) -> None:
    fail(workflow, 4)
    clock.now += WINDOW_SECONDS + 1
    workflow.wire.refuse(SEND_MAIL, "Throttling", times=2)
    fail(workflow)
    fail(workflow)

    assert [("3 more since the last mail" in mail.body) for mail in workflow.mails] == [False, True]


def test_a_window_that_cannot_be_closed_hides_no_error_of_the_mail(workflow: Workflow) -> None:
    workflow.wire.refuse(SEND_MAIL, "Throttling", times=2)
    # Only the update that takes the count back adds one attribute to another.
    workflow.wire.refuse((*COUNT_ALERT, " + "), "ThrottlingException", times=2)
    execution = workflow.run({"body": body_of("missing-fields")})

    assert {"reported": False, "error": "ServiceUnavailable"} in execution.reports
    assert workflow.mails == []


def test_a_mail_is_sent_by_the_second_attempt_when_the_first_was_killed(workflow: Workflow) -> None:
    # Step Functions does not hear of the first, which may have been killed after it opened the window.
    workflow.functions.lose_answer("SendErrorEmail")
    execution = workflow.run({"body": body_of("missing-fields")})

    assert execution.attempts["SendErrorEmail"] == 2
    assert len(workflow.mails) == 2
