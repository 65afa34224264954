import json
import re
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import pytest
import urllib3
from moto import mock_aws

ORDERS = {"table": "order-table-dev", "key": "orderId"}
PAYMENTS = {"table": "payment3-card-payment-record-master", "key": "paymentId"}
OFF = {"SignatureMode": "off", "CrossCheckMode": "off", "InquiryMode": "off"}
SECRET = {
    "webhookSecrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    "inquiry": {"baseUrl": "https://bank.example.com", "clientId": "payment3", "clientSecret": "hush-hush"},
}
UNKNOWN_SECRET = "Secrets Manager can't find the specified secret."

Task = ModuleType
Answer = dict[str, str]


@pytest.fixture
def account() -> Any:
    """The account's two tables and its secret."""
    with mock_aws():
        for names in (ORDERS, PAYMENTS):
            boto3.client("dynamodb").create_table(
                TableName=names["table"],
                BillingMode="PAY_PER_REQUEST",
                AttributeDefinitions=[{"AttributeName": names["key"], "AttributeType": "S"}],
                KeySchema=[{"AttributeName": names["key"], "KeyType": "HASH"}],
            )
        boto3.client("secretsmanager").create_secret(Name="kbank-test", SecretString=json.dumps(SECRET))
        yield


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def task(
    load: Callable[..., ModuleType],
    account: None,  # noqa: ARG001
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> ModuleType:
    for check in ("verify_signature", "cross_check_payment", "inquire_payment"):
        load(check)
    task = load("check_readiness")
    monkeypatch.setattr(task, "time", SimpleNamespace(sleep=waits.append))
    return task


@pytest.fixture
def request_with(service: Any) -> Callable[..., dict[str, Any]]:
    """Return what makes CloudFormation's request, with other properties than those of a stack without checks."""

    def make(kind: str = "Create", **properties: Any) -> dict[str, Any]:
        return {
            "RequestType": kind,
            "ResponseURL": f"{service.url}/answer?signature=s",
            "StackId": "stack",
            "RequestId": "request",
            "LogicalResourceId": "ChecksReady",
            "ResourceProperties": {
                **OFF,
                "SignatureScheme": "standard",
                "Secret": "kbank-test",
                "Orders": ORDERS,
                "Payments": PAYMENTS,
                **properties,
            },
        }

    return make


Make = Callable[..., dict[str, Any]]


def put_secret(secret: object) -> None:
    text = secret if isinstance(secret, str) else json.dumps(secret)
    boto3.client("secretsmanager").put_secret_value(SecretId="kbank-test", SecretString=text)


def test_cloudformation_gets_the_answer_as_it_wants_it(task: Task, request_with: Make, service: Any) -> None:
    answer = task.handler(request_with(), None)
    assert answer == {
        "Status": "SUCCESS",
        "Reason": "",
        "PhysicalResourceId": "ChecksReady",
        "StackId": "stack",
        "RequestId": "request",
        "LogicalResourceId": "ChecksReady",
    }
    (request,) = service.requests
    assert (request.method, request.path, json.loads(request.body)) == ("PUT", "/answer?signature=s", answer)
    assert request.headers["Content-Type"] == ""


@pytest.mark.parametrize("mode", ["warn", "enforce"])
@pytest.mark.parametrize("check", OFF)
def test_a_check_that_has_what_it_needs_is_ready(task: Task, request_with: Make, check: str, mode: str) -> None:
    assert task.handler(request_with(**{check: mode}), None)["Status"] == "SUCCESS"


@pytest.mark.usefixtures("service")
def test_a_check_that_is_off_needs_nothing(task: Task, request_with: Make, waits: list[float]) -> None:
    nothing = {"table": "nowhere", "key": "nothing"}
    answer = task.handler(request_with(Secret="nobody", Orders=nothing, Payments=nothing), None)
    assert (answer["Status"], waits) == ("SUCCESS", [])


@pytest.mark.parametrize("mode", ["warn", "enforce"])
@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"SignatureMode": ..., "Secret": "nobody"}, f"VerifySignature, secret nobody: .*{UNKNOWN_SECRET}"),
        ({"InquiryMode": ..., "Secret": "nobody"}, f"InquirePayment, secret nobody: .*{UNKNOWN_SECRET}"),
        (
            {"CrossCheckMode": ..., "Orders": {**ORDERS, "table": "nowhere"}},
            r"CrossCheckPayment, table nowhere with key orderId: .*ResourceNotFoundException.*",
        ),
        (
            {"CrossCheckMode": ..., "Payments": {**PAYMENTS, "table": "nowhere"}},
            r"CrossCheckPayment, table nowhere with key paymentId: .*ResourceNotFoundException.*",
        ),
        (
            {"CrossCheckMode": ..., "Orders": {**ORDERS, "key": "id"}},
            r"CrossCheckPayment, table order-table-dev with key id: .*ValidationException.*",
        ),
    ],
)
@pytest.mark.usefixtures("service")
def test_a_check_without_its_secret_or_table_fails_the_deployment(
    task: Task, request_with: Make, waits: list[float], properties: dict[str, Any], reason: str, mode: str
) -> None:
    given = {name: mode if value is ... else value for name, value in properties.items()}
    answer = task.handler(request_with(**given), None)
    assert answer["Status"] == "FAILED"
    assert re.fullmatch(reason, answer["Reason"]), answer["Reason"]
    assert waits == [5] * 6


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        ("hush-hush", "The secret kbank-test is not JSON."),
        (["hush-hush"], "The secret kbank-test is not a JSON object."),
        ({"other": "hush-hush"}, "The secret needs webhookSecrets, a list of keys."),
        (
            {"webhookSecrets": ["hush-hush!"]},
            "A key in webhookSecrets is not base64, which Standard Webhooks requires.",
        ),
    ],
)
@pytest.mark.usefixtures("service")
def test_a_secret_without_keys_fails_the_deployment_at_once_and_is_not_shown(
    task: Task, request_with: Make, waits: list[float], secret: object, reason: str
) -> None:
    put_secret(secret)
    answer = task.handler(request_with(SignatureMode="enforce"), None)
    assert (answer["Status"], answer["Reason"]) == ("FAILED", f"VerifySignature, secret kbank-test: {reason}")
    assert waits == []


@pytest.mark.usefixtures("service")
def test_a_plain_key_is_any_text(task: Task, request_with: Make) -> None:
    put_secret({"webhookSecrets": ["hush-hush!"]})
    answer = task.handler(request_with(SignatureMode="enforce", SignatureScheme="plain"), None)
    assert answer["Status"] == "SUCCESS"


@pytest.mark.parametrize(
    ("inquiry", "reason"),
    [
        (None, "The secret needs inquiry with baseUrl, clientId and clientSecret."),
        ({"baseUrl": "https://bank.example.com"}, "The secret needs inquiry with baseUrl, clientId and clientSecret."),
        (
            {**SECRET["inquiry"], "baseUrl": "http://bank.example.com"},
            "The secret's inquiry.baseUrl is not an https URL.",
        ),  # type: ignore[dict-item]
    ],
)
@pytest.mark.usefixtures("service")
def test_a_secret_without_access_to_the_bank_fails_the_deployment(
    task: Task, request_with: Make, inquiry: object, reason: str
) -> None:
    put_secret({"webhookSecrets": SECRET["webhookSecrets"], "inquiry": inquiry})
    answer = task.handler(request_with(InquiryMode="enforce"), None)
    assert (answer["Status"], answer["Reason"]) == ("FAILED", f"InquirePayment, secret kbank-test: {reason}")


@pytest.mark.usefixtures("service")
def test_all_that_is_missing_is_said_at_once(task: Task, request_with: Make) -> None:
    put_secret({})
    on = {"SignatureMode": "enforce", "InquiryMode": "enforce", "CrossCheckMode": "enforce"}
    reason = task.handler(request_with(**on, Orders={**ORDERS, "table": "nowhere"}), None)["Reason"]
    assert [part.split(",")[0] for part in reason.split("; ")] == [
        "VerifySignature",
        "InquirePayment",
        "CrossCheckPayment",
    ]


@pytest.mark.usefixtures("service")
def test_a_secret_that_was_mended_is_read_anew(task: Task, request_with: Make) -> None:
    put_secret({})
    request = request_with(SignatureMode="enforce")
    assert task.handler(request, None)["Status"] == "FAILED"
    put_secret(SECRET)
    assert task.handler(request, None)["Status"] == "SUCCESS"


@pytest.mark.usefixtures("service")
def test_a_role_that_is_known_a_moment_later_is_waited_for(
    task: Task, request_with: Make, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = boto3.client("dynamodb").describe_table(TableName=ORDERS["table"])["Table"]
    boto3.client("dynamodb").delete_table(TableName=ORDERS["table"])
    known = ("TableName", "AttributeDefinitions", "KeySchema")

    def wait(seconds: float) -> None:
        waits.append(seconds)
        boto3.client("dynamodb").create_table(
            BillingMode="PAY_PER_REQUEST", **{member: table[member] for member in known}
        )

    monkeypatch.setattr(task, "time", SimpleNamespace(sleep=wait))
    assert task.handler(request_with(CrossCheckMode="enforce"), None)["Status"] == "SUCCESS"
    assert waits == [5]


@pytest.mark.usefixtures("service")
def test_an_update_keeps_the_id_and_reads_again(task: Task, request_with: Make) -> None:
    request = {**request_with("Update", SignatureMode="warn", Secret="nobody"), "PhysicalResourceId": "earlier"}
    answer = task.handler(request, None)
    assert (answer["Status"], answer["PhysicalResourceId"]) == ("FAILED", "earlier")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"SignatureMode": "enforce"}, {"SignatureMode": "enforce", "CrossCheckMode": "warn"}),
        ({"InquiryMode": "warn"}, {"InquiryMode": "warn", "SignatureMode": "off"}),
    ],
)
@pytest.mark.usefixtures("service")
def test_an_update_can_be_taken_back_though_another_check_lacks_something_by_now(
    task: Task, request_with: Make, before: dict[str, str], after: dict[str, str]
) -> None:
    put_secret({})
    old, new = request_with("Update", **before), request_with("Update", **after)
    forwards = {**new, "OldResourceProperties": old["ResourceProperties"]}
    backwards = {**old, "OldResourceProperties": new["ResourceProperties"]}
    assert task.handler(forwards, None)["Status"] == "SUCCESS"
    assert task.handler(backwards, None)["Status"] == "SUCCESS"


@pytest.mark.parametrize(
    "changed",
    [
        {"SignatureMode": "enforce"},
        {"SignatureScheme": "plain"},
        {"Secret": "nobody"},
        {"Orders": {**ORDERS, "key": "id"}},
        {"Payments": {**PAYMENTS, "table": "nowhere"}},
    ],
    ids=lambda changed: next(iter(changed)),
)
@pytest.mark.usefixtures("service")
def test_an_update_reads_what_it_changes(task: Task, request_with: Make, changed: dict[str, Any]) -> None:
    put_secret({})
    on = {"SignatureMode": "warn", "CrossCheckMode": "enforce"}
    before = request_with(**on)["ResourceProperties"]
    answer = task.handler({**request_with("Update", **on | changed), "OldResourceProperties": before}, None)
    assert answer["Status"] == "FAILED"
    assert len(answer["Reason"].split("; ")) == 1


@pytest.mark.usefixtures("service")
def test_a_stack_goes_without_being_asked_what_it_needed(task: Task, request_with: Make) -> None:
    request = {**request_with("Delete", SignatureMode="enforce", Secret="nobody"), "PhysicalResourceId": "earlier"}
    assert task.handler(request, None)["Status"] == "SUCCESS"


def test_a_reason_is_short_enough_for_cloudformation(task: Task, request_with: Make) -> None:
    nowhere = {"table": "n" * 255, "key": "k" * 4096}
    answer = task.handler(request_with(CrossCheckMode="warn", Orders=nowhere, Payments=nowhere), None)
    assert len(json.dumps(answer)) < 4096


def test_an_answer_that_does_not_arrive_is_an_error_that_does_not_show_where_it_should(
    task: Task, request_with: Make, service: Any, nobody: str
) -> None:
    service.answers(403)
    with pytest.raises(RuntimeError, match=r"^CloudFormation answered 403\.$"):
        task.handler(request_with(), None)
    with pytest.raises(urllib3.exceptions.HTTPError) as error:
        task.handler({**request_with(), "ResponseURL": f"{nobody}/answer?signature=s"}, None)
    assert "signature" not in str(error.value)
