import json
import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import urllib3

from tests.unit.kit import Client, Json, Load, Service, Task

ORDERS = {"table": "order-table-dev", "key": "orderId"}
PAYMENTS = {"table": "payment3-card-payment-record-master", "key": "paymentId"}
OFF = {"SignatureMode": "off", "CrossCheckMode": "off", "InquiryMode": "off"}
ACCESS = {"baseUrl": "https://bank.example.com", "clientId": "payment3", "clientSecret": "hush-hush"}
SECRET = {"webhookSecrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], "inquiry": ACCESS}

# What the checks read.
KEYS_READ = "secret kbank-test"
ACCESS_READ = "secret kbank-inquiry-test"
ORDERS_READ = "table order-table-dev, key orderId"
PAYMENTS_READ = "table payment3-card-payment-record-master, key paymentId"

# CloudFormation's request of a kind, with these properties changed.
type Make = Callable[..., Json]


@pytest.fixture
def request_with(service: Service) -> Make:
    """Make CloudFormation's request for a stack whose checks are off, with these properties changed."""

    def make(kind: str = "Create", **properties: object) -> Json:
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
                "InquirySecret": "kbank-inquiry-test",
                "Orders": ORDERS,
                "Payments": PAYMENTS,
                **properties,
            },
        }

    return make


@pytest.fixture
def waits() -> list[float]:
    """The pauses between attempts; the tests do not wait for them."""
    return []


@pytest.fixture
def load_task(load: Load, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.delenv("READINESS_PAUSE_SECONDS", raising=False)

    def load_task(**variables: str) -> Task:
        task = load("check_readiness", **variables)
        monkeypatch.setattr(task, "time", SimpleNamespace(sleep=waits.append))
        return task

    return load_task


@pytest.fixture
def task(load_task: Load, service: Service) -> Task:
    """The task, with a Secrets Manager that holds SECRET and a DynamoDB without items."""
    service.keeps_secret(SECRET)
    return load_task(AWS_ENDPOINT_URL=service.url)


@pytest.fixture
def reads(task: Task, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the task has read, all of which is as the checks need it."""
    made: list[str] = []

    def read_secret(name: str) -> Json:
        made.append(f"secret {name}")
        return SECRET

    def read_item(table: str, key: str, _value: str, _attributes: list[str]) -> None:
        made.append(f"table {table}, key {key}")

    monkeypatch.setattr(task.bank_secret, "read_now", read_secret)
    monkeypatch.setattr(task.items, "read", read_item)
    return made


# The answer


def test_cloudformation_gets_its_answer_in_its_own_form(task: Task, request_with: Make, service: Service) -> None:
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


def test_a_rejected_answer_is_an_error(task: Task, request_with: Make, service: Service) -> None:
    service.answers(403)
    with pytest.raises(RuntimeError, match=r"^CloudFormation answered 403\.$"):
        task.handler(request_with(), None)


def test_an_answer_that_does_not_arrive_is_an_error_without_its_url(
    task: Task, request_with: Make, nobody: str
) -> None:
    with pytest.raises(urllib3.exceptions.HTTPError) as error:
        task.handler({**request_with(), "ResponseURL": f"{nobody}/answer?signature=s"}, None)
    assert "signature" not in str(error.value)


def test_an_answer_is_short_enough_for_cloudformation(task: Task, request_with: Make, service: Service) -> None:
    service.answers_at("/", {"__type": "ResourceNotFoundException"}, 400)
    nowhere = {"table": "n" * 255, "key": "k" * 4096}
    answer = task.handler(request_with(CrossCheckMode="warn", Orders=nowhere, Payments=nowhere), None)
    assert answer["Status"] == "FAILED"
    assert len(json.dumps(answer)) < 4096


# What is read


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({}, []),
        ({"SignatureMode": "warn"}, [KEYS_READ]),
        ({"InquiryMode": "enforce"}, [ACCESS_READ]),
        ({"CrossCheckMode": "warn"}, [ORDERS_READ, PAYMENTS_READ]),
        (dict.fromkeys(OFF, "enforce"), [KEYS_READ, ACCESS_READ, ORDERS_READ, PAYMENTS_READ]),
    ],
    ids=str,
)
def test_only_what_a_check_needs_is_read_and_only_if_it_is_on(
    task: Task, reads: list[str], request_with: Make, properties: dict[str, str], expected: list[str]
) -> None:
    assert task.handler(request_with(**properties), None)["Status"] == "SUCCESS"
    assert reads == expected


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"SignatureMode": "enforce"}, [KEYS_READ]),
        ({"SignatureMode": "off"}, []),
        ({"SignatureScheme": "plain"}, [KEYS_READ]),
        ({"InquiryMode": "warn"}, [ACCESS_READ]),
        ({"Secret": "kbank-new"}, ["secret kbank-new"]),
        ({"CrossCheckMode": "warn"}, [ORDERS_READ, PAYMENTS_READ]),
        ({"Orders": {**ORDERS, "key": "id"}}, ["table order-table-dev, key id"]),
        ({"Payments": {**PAYMENTS, "table": "new"}}, ["table new, key paymentId"]),
    ],
    ids=str,
)
def test_an_update_reads_only_what_it_changes(
    task: Task, reads: list[str], request_with: Make, changed: Json, expected: list[str]
) -> None:
    on = {"SignatureMode": "warn", "CrossCheckMode": "enforce"}
    before = request_with(**on)["ResourceProperties"]
    update = {**request_with("Update", **on | changed), "OldResourceProperties": before}
    assert task.handler(update, None)["Status"] == "SUCCESS"
    assert reads == expected


def test_a_changed_secret_is_read_for_the_inquiry_too(task: Task, reads: list[str], request_with: Make) -> None:
    before = request_with(InquiryMode="warn")["ResourceProperties"]
    changed = request_with("Update", InquiryMode="warn", InquirySecret="kbank-new")
    task.handler({**changed, "OldResourceProperties": before}, None)
    assert reads == ["secret kbank-new"]


def test_a_rollback_reads_nothing_for_a_check_that_stays_on(task: Task, reads: list[str], request_with: Make) -> None:
    old = request_with("Update", SignatureMode="enforce")
    new = request_with("Update", SignatureMode="enforce", CrossCheckMode="warn")
    task.handler({**new, "OldResourceProperties": old["ResourceProperties"]}, None)
    assert reads == [ORDERS_READ, PAYMENTS_READ]
    reads.clear()
    assert task.handler({**old, "OldResourceProperties": new["ResourceProperties"]}, None)["Status"] == "SUCCESS"
    assert reads == []


def test_an_update_from_unknown_properties_reads_everything_and_keeps_the_id(
    task: Task, reads: list[str], request_with: Make
) -> None:
    request = {**request_with("Update", SignatureMode="warn"), "PhysicalResourceId": "earlier"}
    assert task.handler(request, None)["PhysicalResourceId"] == "earlier"
    assert reads == [KEYS_READ]


def test_deleting_a_stack_reads_nothing(task: Task, reads: list[str], request_with: Make) -> None:
    request = {**request_with("Delete", **dict.fromkeys(OFF, "enforce")), "PhysicalResourceId": "earlier"}
    assert task.handler(request, None)["Status"] == "SUCCESS"
    assert reads == []


# What is missing


def test_everything_that_is_missing_is_reported_at_once(
    task: Task, request_with: Make, service: Service, waits: list[float]
) -> None:
    service.answers_at("/", {"__type": "AccessDeniedException", "Message": "not allowed"}, 400)
    answer = task.handler(request_with(**dict.fromkeys(OFF, "enforce")), None)
    assert answer["Status"] == "FAILED"
    reasons = (
        r"VerifySignature, secret kbank-test: .*AccessDeniedException.*, or the secret does not exist",
        r"InquirePayment, secret kbank-inquiry-test: .*AccessDeniedException.*, or the secret does not exist",
        r"CrossCheckPayment, table order-table-dev with key orderId: .*AccessDeniedException.*",
        r"CrossCheckPayment, table payment3-card-payment-record-master with key paymentId: .*AccessDeniedException.*",
    )
    assert re.fullmatch("; ".join(reasons), answer["Reason"])
    # Together: the deployment does not wait for each of them.
    assert waits == [5] * 6


def test_a_secret_that_cannot_be_read_is_reported_as_it_is(task: Task, request_with: Make, service: Service) -> None:
    service.answers_at("/", {"__type": "DecryptionFailure", "Message": "no key"}, 400)
    answer = task.handler(request_with(SignatureMode="enforce"), None)
    assert re.fullmatch(r"VerifySignature, secret kbank-test: .*DecryptionFailure.*: no key", answer["Reason"])


@pytest.fixture
def task_with_tables(load_task: Load, dynamodb: Client) -> Task:
    """The task, and both tables, empty."""
    for names in (ORDERS, PAYMENTS):
        dynamodb.create_table(
            TableName=names["table"],
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": names["key"], "AttributeType": "S"}],
            KeySchema=[{"AttributeName": names["key"], "KeyType": "HASH"}],
        )
    return load_task()


def test_existing_tables_with_the_right_keys_are_ready(task_with_tables: Task, request_with: Make) -> None:
    assert task_with_tables.handler(request_with(CrossCheckMode="enforce"), None)["Status"] == "SUCCESS"


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"Orders": {**ORDERS, "table": "nowhere"}}, "table nowhere with key orderId: .*ResourceNotFoundException.*"),
        (
            {"Payments": {**PAYMENTS, "table": "nowhere"}},
            "table nowhere with key paymentId: .*ResourceNotFoundException.*",
        ),
        ({"Orders": {**ORDERS, "key": "id"}}, "table order-table-dev with key id: .*ValidationException.*"),
    ],
    ids=str,
)
def test_a_missing_table_or_a_wrong_key_fails_the_deployment(
    task_with_tables: Task, request_with: Make, properties: Json, reason: str
) -> None:
    answer = task_with_tables.handler(request_with(CrossCheckMode="warn", **properties), None)
    assert answer["Status"] == "FAILED"
    assert re.fullmatch(f"CrossCheckPayment, {reason}", answer["Reason"])


@pytest.mark.parametrize(
    ("mode", "check", "secret", "problem"),
    [
        ("SignatureMode", "VerifySignature", "hush-hush", "The secret kbank-test is not JSON."),
        (
            "SignatureMode",
            "VerifySignature",
            {"other": "hush-hush"},
            "The secret needs webhookSecrets, a list of keys.",
        ),
        (
            "SignatureMode",
            "VerifySignature",
            {"webhookSecrets": [*SECRET["webhookSecrets"], "hush-hush!"]},
            "Key 2 of webhookSecrets is not base64, as Standard Webhooks requires.",
        ),
        ("InquiryMode", "InquirePayment", ["hush-hush"], "The secret kbank-inquiry-test is not a JSON object."),
        (
            "InquiryMode",
            "InquirePayment",
            {"webhookSecrets": ["hush-hush"]},
            "The secret needs inquiry with baseUrl, clientId and clientSecret.",
        ),
        (
            "InquiryMode",
            "InquirePayment",
            {"inquiry": {**ACCESS, "baseUrl": "http://bank.example.com"}},
            "The secret's inquiry.baseUrl is not an https URL.",
        ),
    ],
)
def test_a_wrong_secret_fails_the_deployment_at_once_and_is_not_shown(
    task: Task,
    request_with: Make,
    service: Service,
    waits: list[float],
    mode: str,
    check: str,
    secret: object,
    problem: str,
) -> None:
    service.keeps_secret(secret)
    answer = task.handler(request_with(**{mode: "enforce"}), None)
    name = "kbank-test" if check == "VerifySignature" else "kbank-inquiry-test"
    assert (answer["Status"], answer["Reason"]) == ("FAILED", f"{check}, secret {name}: {problem}")
    assert waits == []


def test_a_plain_key_may_be_any_text(task: Task, request_with: Make, service: Service) -> None:
    service.keeps_secret({"webhookSecrets": ["hush-hush!"]})
    answer = task.handler(request_with(SignatureMode="enforce", SignatureScheme="plain"), None)
    assert answer["Status"] == "SUCCESS"


@pytest.mark.parametrize("mode", ["SignatureMode", "InquiryMode"])
def test_a_corrected_secret_is_read_at_once(task: Task, request_with: Make, service: Service, mode: str) -> None:
    service.keeps_secret({})
    assert task.handler(request_with(**{mode: "enforce"}), None)["Status"] == "FAILED"
    service.keeps_secret(SECRET)
    assert task.handler(request_with(**{mode: "enforce"}), None)["Status"] == "SUCCESS"


# Pauses


def test_a_role_that_takes_a_moment_to_apply_is_waited_for(
    task: Task, request_with: Make, service: Service, waits: list[float]
) -> None:
    service.refuses_once("AccessDeniedException", 400)
    assert task.handler(request_with(CrossCheckMode="enforce"), None)["Status"] == "SUCCESS"
    assert waits == [5]


@pytest.mark.parametrize(("setting", "pause"), [("0.25", 0.25), ("", 5)])
def test_the_pause_is_a_setting(
    load_task: Load, request_with: Make, service: Service, waits: list[float], setting: str, pause: float
) -> None:
    service.answers_at("/", {"__type": "AccessDeniedException"}, 400)
    task = load_task(AWS_ENDPOINT_URL=service.url, READINESS_PAUSE_SECONDS=setting)
    task.handler(request_with(SignatureMode="enforce"), None)
    assert waits == [pause] * 6
