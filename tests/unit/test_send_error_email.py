from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ses.models import ses_backends

from callbacks.errors import ServiceUnavailable
from tests.unit.kit import Json, Load, Service, Table, TableOf, Within, context, items, reported

Send = Callable[..., dict[str, str]]

SENT = b"<SendEmailResponse><SendEmailResult><MessageId>m-1</MessageId></SendEmailResult></SendEmailResponse>"


def refusal(code: str) -> bytes:
    return f"<ErrorResponse><Error><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>".encode()


@pytest.fixture(autouse=True)
def alerts(table_of: TableOf) -> Table:
    """The alert table, in an account that has sent no e-mail yet."""
    return table_of("CallbackAlertTable")


@pytest.fixture
def ses() -> Any:
    """SES with a verified sender; it keeps what it sends."""
    boto3.client("ses").verify_email_identity(EmailAddress="alerts@example.com")
    return ses_backends[DEFAULT_ACCOUNT_ID]["ap-southeast-1"]


@pytest.fixture
def send(load: Load, service: Service) -> Send:
    """Run the task and return the request that SES received."""

    def sent(failure: Json, **variables: str) -> dict[str, str]:
        service.answers(200, SENT)
        task = load("send_error_email", AWS_ENDPOINT_URL_SES=service.url, **variables)
        assert task.handler(failure, context()) == {"reported": True, "messageId": "m-1"}
        (request,) = service.requests
        return dict(parse_qsl(request.body.decode(), keep_blank_values=True, strict_parsing=True))

    return sent


def test_an_email_about_a_failure_is_sent_by_a_verified_sender(load: Load, ses: Any, failure: Json) -> None:
    result = load("send_error_email").handler(failure, context())
    (message,) = ses.sent_messages
    assert result == {"reported": True, "messageId": message.id}
    assert message.source == "alerts@example.com"
    assert message.destinations["ToAddresses"] == ["oncall@example.com"]
    assert message.subject == "[test] BankApp callback: ServiceUnavailable"


def test_an_email_goes_to_all_recipients(load: Load, ses: Any, failure: Json) -> None:
    load("send_error_email", EMAIL_TO="a@example.com,b@example.com,c@example.org").handler(failure, context())
    (message,) = ses.sent_messages
    assert message.destinations["ToAddresses"] == ["a@example.com", "b@example.com", "c@example.org"]


def test_the_text_names_what_failed_and_where_to_look(send: Send, failure: Json) -> None:
    sent = send(failure)
    assert sent["Message.Body.Text.Charset"] == sent["Message.Subject.Charset"] == "UTF-8"
    assert sent["Message.Body.Text.Data"] == (
        "Function:    bankappcallback\n"
        "Environment: test\n"
        "Step:        SaveCallbackRecord\n"
        "Error:       ServiceUnavailable\n"
        "Message:     DynamoDB is <busy>\n"
        "Order:       482500007436\n"
        "Charge:      pay_bankapp_123\n"
        "Time:        2026-11-22T10:00:01.000Z\n"
        "Request:     8f7e6d5c\n"
        f"Execution:   {failure['report']['executionArn']}\n"
    )


def test_the_html_says_the_same_escaped(send: Send, failure: Json) -> None:
    failure["event"]["body"] = """{"orderId": "<b>", "paymentId": "example.com"}"""
    sent = send(failure)
    html = sent["Message.Body.Html.Data"]
    assert sent["Message.Body.Html.Charset"] == "UTF-8"
    assert html.count("<tr>") == sent["Message.Body.Text.Data"].count("\n") == 10
    assert '<tr><th align="left">Message</th><td>DynamoDB is &lt;busy&gt;</td></tr>' in html
    assert '<tr><th align="left">Order</th><td>&quot;\\u003cb\\u003e&quot;</td></tr>' in html
    assert '<tr><th align="left">Charge</th><td>&quot;example\\u002ecom&quot;</td></tr>' in html


def test_the_subject_names_the_environment(send: Send, failure: Json) -> None:
    failure["report"] |= {
        "channel": "Card",
        "failure": {"ValidateCallback": {"Error": "InvalidCallback", "Cause": "{}"}},
    }
    sent = send(failure, ENVIRONMENT="prod")
    assert sent["Message.Subject.Data"] == "[prod] Card callback: InvalidCallback"
    assert "Environment: prod\n" in sent["Message.Body.Text.Data"]


def test_ids_that_cannot_be_found_are_unknown(send: Send, failure: Json) -> None:
    failure["event"]["body"] = "nothing to be found"
    text = send(failure)["Message.Body.Text.Data"]
    assert "Order:       unknown\n" in text
    assert "Charge:      unknown\n" in text


def test_an_email_contains_nothing_of_the_user_the_body_or_the_headers(send: Send, failure: Json) -> None:
    sent = "\n".join(send(failure).values())
    assert "482500007436" in sent
    for private in ("b5f392f7", "userId", "Payment successful", "2339", "BankGateway", "203.0.113.7", "stackTrace"):
        assert private not in sent


def test_an_unverified_sender_is_a_permanent_error(load: Load, ses: Any, failure: Json) -> None:
    task = load("send_error_email", EMAIL_FROM="stranger@example.net")
    with pytest.raises(ClientError, match="MessageRejected"):
        task.handler(failure, context())
    assert ses.sent_messages == []


@pytest.mark.parametrize(
    ("code", "status"), [("Throttling", 400), ("ServiceUnavailable", 503), ("InternalFailure", 500)]
)
def test_an_email_is_repeated_once_after_an_error_that_passes(
    load: Load, service: Service, failure: Json, pauses: list[float], code: str, status: int
) -> None:
    task = load("send_error_email", AWS_ENDPOINT_URL_SES=service.url)
    service.answers(status, refusal(code))
    with pytest.raises(ServiceUnavailable):
        task.handler(failure, context())
    assert len(service.requests) == 2
    assert len(pauses) == 1


@pytest.mark.parametrize("code", ["AccessDenied", "MessageRejected", "MailFromDomainNotVerifiedException"])
def test_a_permanent_ses_error_keeps_its_name(load: Load, service: Service, failure: Json, code: str) -> None:
    task = load("send_error_email", AWS_ENDPOINT_URL_SES=service.url)
    service.answers(400, refusal(code))
    with pytest.raises(ClientError, match=code):
        task.handler(failure, context())
    assert len(service.requests) == 1


def test_an_ses_that_does_not_answer_is_called_once_and_given_up_in_time(
    load: Load, service: Service, failure: Json, within: Within
) -> None:
    task = load("send_error_email", AWS_ENDPOINT_URL_SES=service.url)
    service.hangs()
    with within(1.8), pytest.raises(ServiceUnavailable):
        task.handler(failure, context(1000))
    assert len(service.requests) == 1


def test_an_ses_that_cannot_be_reached_is_given_up_in_time(
    load: Load, deaf: str, failure: Json, within: Within
) -> None:
    task = load("send_error_email", AWS_ENDPOINT_URL_SES=deaf)
    with within(1.8), pytest.raises(ServiceUnavailable):
        task.handler(failure, context(1000))


def test_a_failure_in_an_open_window_is_counted_and_not_emailed(
    load: Load, ses: Any, failure: Json, alerts: Table
) -> None:
    task = load("send_error_email")
    assert task.handler(failure, context())["messageId"]
    assert task.handler(reported(failure, executionArn="another"), context()) == {"reported": True, "messageId": None}
    assert sorted(item.get("failures", 0) for item in items(alerts)) == [0, 1]
    assert len(ses.sent_messages) == 1


def test_the_alert_table_holds_nothing_of_the_user_the_body_or_the_headers(
    load: Load, ses: Any, failure: Json, alerts: Table
) -> None:
    task = load("send_error_email")
    for execution in ("one", "another"):
        task.handler(reported(failure, executionArn=execution), context())
    assert ses.sent_messages
    stored = str(items(alerts))
    assert "482500007436" in stored
    for private in ("b5f392f7", "userId", "Payment successful", "2339", "BankGateway", "203.0.113.7", "<busy>"):
        assert private not in stored
