"""Each statement of a task's role is needed: without it, under IAM enforcement, that step fails and only that."""

from collections.abc import Callable

import pytest

from tests.e2e.conftest import Local, without_permissions

MakeBody = Callable[..., str]


@pytest.mark.parametrize("step", ["SaveCallbackRecord", "InvokeProcessPaid"])
def test_a_step_without_its_permission_fails_and_is_reported(local: Local, make_body: MakeBody, step: str) -> None:
    with without_permissions(local, step):
        answer = local.post(make_body())
    assert answer.status == 500
    assert answer.body["error"] == f"Internal error, request id {answer.headers['x-amzn-RequestId']}"
    (error,) = local.errors_of(answer)
    assert error["step"] == step
    assert "AccessDenied" in error["cause"]
    assert local.post(make_body()).status == 200


def test_without_its_permission_the_error_log_stays_empty_and_the_other_reports_go_out(local: Local) -> None:
    with without_permissions(local, "WriteErrorLog"):
        answer = local.post("{}")
    assert answer.status == 500
    assert local.errors_of(answer) == []
    assert len(local.mails_of(answer)) == len(local.sentry_events_of(answer)) == 1


def test_without_its_permission_no_mail_goes_out_but_the_other_reports_do(local: Local) -> None:
    with without_permissions(local, "SendErrorEmail"):
        answer = local.post("{}")
    assert answer.status == 500
    assert local.mails_of(answer) == []
    assert len(local.errors_of(answer)) == len(local.sentry_events_of(answer)) == 1
