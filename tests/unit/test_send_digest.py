from types import SimpleNamespace
from typing import Any

import pytest

from callbacks.queues import Lane, queue_of
from tests.unit.kit import Json, Load, Put, Service, Task, context
from tests.unit.test_report_suppressed import sent_emails
from tests.unit.test_send_error_email import SENT

EVENT = {"channel": "BankApp"}
NOTHING = {"failures": 0, "fromAnyone": 0, "isComplete": True, "messageId": None}


@pytest.fixture
def task(load: Load, tables: dict[str, str], service: Service) -> Task:
    service.answers(200, SENT)
    return load("send_digest", ERROR_LOG_TABLE=tables["CallbackErrorLogTable"], AWS_ENDPOINT_URL_SES=service.url)


@pytest.fixture
def waiting(failed: Put) -> Put:
    """Put a failure that waits in a lane, for an operator unless it is given."""

    def put(request_id: str = "8f7e6d5c", waits_in: str = Lane.OPERATOR, **changes: Any) -> Json:
        time = changes.get("occurredAt", "2020-01-01T10:00:01.000Z")
        queue = queue_of("BankApp", waits_in, request_id)
        given = {"error": "PaymentConflict", "lane": Lane.HEALING, "queuedAt": time, **changes}
        return failed(requestId=request_id, queue=queue, nextAttemptAt=None, **given)

    return put


def rows(service: Service) -> list[list[str]]:
    (email,) = sent_emails(service)
    return [line.split() for line in email["Message.Body.Text.Data"].splitlines()[3:]]


def test_no_email_is_sent_if_nothing_waits(task: Task, waiting: Put, service: Service) -> None:
    waiting("healed soon", Lane.HEALING)
    waiting("perhaps healed", Lane.UNCONFIRMED)
    assert task.handler(EVENT, context()) == NOTHING
    assert service.requests == []


def test_an_email_lists_what_waits_and_what_was_given_up(task: Task, waiting: Put, service: Service) -> None:
    waiting("conflict", chargeId=None, orderId=None)
    waiting(
        "ended", Lane.GIVEN_UP, status="given up", error="ServiceUnavailable", occurredAt="2020-01-01T09:00:00.000Z"
    )
    assert task.handler(EVENT, context()) == {**NOTHING, "failures": 2, "messageId": "m-1"}
    (email,) = sent_emails(service)
    assert email["Message.Subject.Data"] == "[test] BankApp callback: waiting for operators: 2"
    assert email["Message.Body.Text.Data"] == (
        "Waiting for an operator or given up: 2. Not listed, because anybody can have caused them: 0.\n"
        "\n"
        "Order        Charge          Since                    Status   Error              Request\n"
        "482500007436 pay_bankapp_123 2020-01-01T09:00:00.000Z given up ServiceUnavailable ended\n"
        "unknown      unknown         2020-01-01T10:00:01.000Z open     PaymentConflict    conflict\n"
        "\n"
    )


@pytest.mark.parametrize(
    ("waits_in", "changes", "is_listed"),
    [
        (Lane.OPERATOR, {"error": "InvalidCallback"}, False),
        (Lane.OPERATOR, {"error": "InvalidSignature"}, False),
        # It was accepted before it was redriven.
        (Lane.OPERATOR, {"error": "InvalidCallback", "attempts": 1}, True),
        (Lane.OPERATOR, {"error": "PaymentMismatch"}, True),
        (Lane.GIVEN_UP, {"error": "OrderNotFound", "lane": Lane.UNCONFIRMED}, False),
        (Lane.GIVEN_UP, {"error": "OrderNotFound", "lane": Lane.HEALING}, True),
    ],
)
def test_what_anybody_can_cause_is_counted_and_not_listed(
    task: Task, waiting: Put, service: Service, waits_in: Lane, changes: Json, is_listed: bool
) -> None:
    waiting("first", waits_in, **changes)
    result = task.handler(EVENT, context())
    assert (result["failures"], result["fromAnyone"]) == ((1, 0) if is_listed else (0, 1))
    assert len(service.requests) == is_listed


def test_the_failures_of_an_order_are_together_and_the_oldest_order_comes_first(
    task: Task, waiting: Put, service: Service
) -> None:
    for second, order in enumerate(["order-b", "order-a", "order-c", "order-b", "order-a"]):
        waiting(f"request-{second}", orderId=order, occurredAt=f"2020-01-01T10:00:0{second}.000Z")
    task.handler(EVENT, context())
    assert [(row[0], row[-1]) for row in rows(service) if row] == [
        ("order-b", "request-0"),
        ("order-b", "request-3"),
        ("order-a", "request-1"),
        ("order-a", "request-4"),
        ("order-c", "request-2"),
    ]


def test_a_long_list_is_cut_after_the_oldest(
    task: Task, waiting: Put, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task.emails, "MAX_LINES", 3)
    for second in range(9, -1, -1):
        waiting(f"request-{second}", occurredAt=f"2020-01-01T10:00:0{second}.000Z")
    assert task.handler(EVENT, context())["failures"] == 10
    listed = rows(service)
    assert [row[-1] for row in listed[:-1]] == ["request-0", "request-1", "request-2"]
    assert listed[-1] == ["and", "7", "more"]


def test_a_list_has_at_most_a_hundred_lines(task: Task) -> None:
    assert task.emails.MAX_LINES == 100


def test_no_id_is_a_link_and_nothing_private_is_sent(task: Task, waiting: Put, service: Service) -> None:
    waiting("first", orderId="example.com", chargeId="<b>", cause="the user b5f392f7", event='{"body": "secret"}')
    task.handler(EVENT, context())
    (email,) = sent_emails(service)
    html, text = email["Message.Body.Html.Data"], email["Message.Body.Text.Data"]
    assert r"<td>&quot;example\u002ecom&quot;</td><td>&quot;\u003cb\u003e&quot;</td>" in html
    assert r'"example\u002ecom" "\u003cb\u003e"' in text
    assert not {"b5f392f7", "secret"} & set(" ".join(email.values()).split())


def test_an_error_log_that_takes_too_long_to_read_is_said_to_have_more(
    task: Task, waiting: Put, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    same_queue = [name for name in map(str, range(40)) if queue_of("BankApp", "x", name) == "BankApp#0#x"][:3]
    for name in same_queue:
        waiting(name)
    query = task.ErrorLog.unresolved.query
    monkeypatch.setattr(
        task.ErrorLog.unresolved, "query", lambda *values, **names: query(*values, **names, page_size=1)
    )
    assert task.handler(EVENT, context()) == {**NOTHING, "failures": 3, "messageId": "m-1"}
    service.requests.clear()
    # Two looks at the clock for each queue of what was given up, and one before the first page of the next queue.
    left = iter([60_000] * 17)
    short = SimpleNamespace(get_remaining_time_in_millis=lambda: next(left, 1000))
    assert task.handler(EVENT, short) == {**NOTHING, "failures": 1, "isComplete": False, "messageId": "m-1"}
    assert "There are more" in sent_emails(service)[0]["Message.Body.Text.Data"]
