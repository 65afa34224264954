import json
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aws_lambda_powertools.utilities.idempotency.exceptions import IdempotencyPersistenceLayerError
from botocore.exceptions import ClientError, EndpointConnectionError

from callbacks.errors import DispatchInProgress, PaymentConflict, ServiceUnavailable
from tests.sources import table
from tests.unit.kit import Json, Load, Log, Put, Service, Table, TableOf, Task, Within, items, operations

EVENTS = Path(__file__).parents[2] / "events"
CHANNEL = "BankApp"
RECORDS = table("WalletCallbackRecordTable")["TableName"]
FUNCTION = "payment3-process-paid-wallet-order-internal-test"
NOTHING_RECORDED = b'{"Items": []}'
LATER = "2026-11-22T10:00:09.000Z#later"
EARLIER = "2026-11-22T09:00:00.000Z#earlier"
DAY = 24 * 60 * 60

BeforeInvoke = Callable[[Callable[[], None]], None]


def event(callback: Json, **changes: Any) -> Json:
    """The input of the state."""
    return {"channel": CHANNEL, "function": FUNCTION, "table": RECORDS, "callback": {**callback, **changes}}


def context(remaining_milliseconds: int = 60_000) -> SimpleNamespace:
    """The part of Lambda's context that is used; after a minute no claim expires during a slow test."""
    return SimpleNamespace(get_remaining_time_in_millis=lambda: remaining_milliseconds)


def dispatched(callback: Json) -> Json:
    """The answer for a delivery that is not a duplicate."""
    return {"dispatchedBy": callback["deliveryId"], "isDuplicate": False}


@pytest.fixture
def claims(table_of: TableOf) -> Table:
    return table_of("PaymentIdempotencyTable")


@pytest.fixture
def task(load: Load, tables: dict[str, str], service: Service) -> Task:  # noqa: ARG001
    """The task with moto's DynamoDB and a Lambda that accepts every event."""
    service.answers(202)
    return load("invoke_process_paid", AWS_ENDPOINT_URL_LAMBDA=service.url)


@pytest.fixture
def before_invoke(task: Task) -> BeforeInvoke:
    """Act once, just before the next invoke is sent."""

    def register(action: Callable[[], None]) -> None:
        def once(**_: object) -> None:
            events.unregister("before-send.lambda.Invoke", once)
            action()

        events.register_first("before-send.lambda.Invoke", once)

    events = task.lambda_client.meta.events
    return register


# The invoke


@pytest.mark.parametrize("name", ["paid", "exact-amount", "unknown-fields", "text-of-all-kinds"])
def test_the_payload_is_the_body_byte_for_byte(task: Task, service: Service, callback: Json, name: str) -> None:
    body = json.loads((EVENTS / f"{name}.json").read_text())["body"]
    assert task.handler(event(callback, body=body), context()) == dispatched(callback)
    (request,) = service.requests
    assert request.body == body.encode()


def test_the_function_of_the_channel_is_invoked_asynchronously(task: Task, service: Service, callback: Json) -> None:
    task.handler(event(callback), context())
    (request,) = service.requests
    assert request.path == f"/2015-03-31/functions/{FUNCTION}/invocations"
    assert request.headers["X-Amz-Invocation-Type"] == "Event"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("TooManyRequestsException", 429),
        ("ThrottlingException", 400),
        ("ServiceException", 500),
        ("ServiceUnavailable", 503),
    ],
)
def test_a_transient_lambda_error_is_service_unavailable_and_not_retried(
    task: Task, service: Service, callback: Json, code: str, status: int
) -> None:
    service.refuses(code, status)
    with pytest.raises(ServiceUnavailable):
        task.handler(event(callback), context())
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("AccessDeniedException", 403),
        ("ResourceNotFoundException", 404),
        ("InvalidParameterValueException", 400),
        ("RequestTooLargeException", 413),
    ],
)
def test_a_permanent_lambda_error_keeps_its_name(
    task: Task, service: Service, callback: Json, code: str, status: int
) -> None:
    service.refuses(code, status)
    with pytest.raises(ClientError, match=code):
        task.handler(event(callback), context())
    assert len(service.requests) == 1


def test_a_lambda_that_does_not_answer_is_called_once_and_given_up_in_time(
    task: Task, service: Service, callback: Json, within: Within
) -> None:
    service.hangs()
    with within(1.8), pytest.raises(ServiceUnavailable):
        task.handler(event(callback), context())
    assert len(service.requests) == 1


@pytest.mark.usefixtures("tables")
def test_a_lambda_that_cannot_be_reached_is_given_up_in_time(
    load: Load, deaf: str, callback: Json, within: Within
) -> None:
    task = load("invoke_process_paid", AWS_ENDPOINT_URL_LAMBDA=deaf)
    with within(1.8), pytest.raises(ServiceUnavailable):
        task.handler(event(callback), context())


@pytest.mark.usefixtures("tables")
def test_a_refused_connection_is_service_unavailable(load: Load, nobody: str, callback: Json) -> None:
    task = load("invoke_process_paid", AWS_ENDPOINT_URL_LAMBDA=nobody)
    with pytest.raises(ServiceUnavailable):
        task.handler(event(callback), context())


# Once per payment


def test_a_second_delivery_of_a_payment_is_a_duplicate_of_the_first(
    task: Task, service: Service, callback: Json
) -> None:
    task.handler(event(callback), context())
    again = task.handler(event(callback, deliveryId=LATER, body="{}"), context())
    assert again == {"dispatchedBy": callback["deliveryId"], "isDuplicate": True}
    assert len(service.requests) == 1


def test_a_retry_after_a_lost_answer_is_no_duplicate_and_invokes_nothing(
    task: Task, service: Service, callback: Json
) -> None:
    task.handler(event(callback), context())
    assert task.handler(event(callback), context()) == dispatched(callback)
    assert len(service.requests) == 1


def test_a_payment_is_still_known_after_a_cold_start(task: Task, load: Load, service: Service, callback: Json) -> None:
    task.handler(event(callback), context())
    restarted = load("invoke_process_paid")
    assert restarted is not task
    assert restarted.handler(event(callback, deliveryId=LATER), context())["isDuplicate"]
    assert len(service.requests) == 1


@pytest.mark.parametrize("other", [{"orderId": "other"}, {"paymentId": "other"}], ids=["orderId", "paymentId"])
def test_another_payment_is_dispatched_separately(
    task: Task, service: Service, callback: Json, other: dict[str, str]
) -> None:
    task.handler(event(callback), context())
    assert task.handler(event(callback, deliveryId=LATER, **other), context()) == {
        "dispatchedBy": LATER,
        "isDuplicate": False,
    }
    assert len(service.requests) == 2


def test_the_same_ids_in_another_channel_are_another_payment(task: Task, service: Service, callback: Json) -> None:
    task.handler(event(callback), context())
    assert task.handler({**event(callback), "channel": "Another"}, context()) == dispatched(callback)
    assert len(service.requests) == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # Both read the same when joined.
        ({"orderId": "1", "paymentId": "23"}, {"orderId": "12", "paymentId": "3"}),
        ({"orderId": '1", "2', "paymentId": "3"}, {"orderId": "1", "paymentId": '2", "3'}),
        ({"orderId": "1", "paymentId": "2"}, {"orderId": "2", "paymentId": "1"}),
    ],
)
def test_ids_are_not_confused_when_they_read_the_same_together(
    task: Task, service: Service, callback: Json, first: dict[str, str], second: dict[str, str]
) -> None:
    for ids in (first, second):
        assert not task.handler(event(callback, **ids), context())["isDuplicate"]
    assert len(service.requests) == 2


@pytest.mark.parametrize("amount", ["1.5", "1.50", "15e-1", "1.5E+0"])
def test_the_same_amount_in_another_spelling_is_the_same_payment(
    task: Task, service: Service, callback: Json, amount: str
) -> None:
    task.handler(event(callback, amount="1.5"), context())
    assert task.handler(event(callback, amount=amount, deliveryId=LATER), context())["isDuplicate"]
    assert len(service.requests) == 1


def test_a_payment_without_an_amount_is_the_same_without_one_again(
    task: Task, service: Service, callback: Json
) -> None:
    task.handler(event(callback, amount=None), context())
    assert task.handler(event(callback, amount=None, deliveryId=LATER), context())["isDuplicate"]
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"amount": "2339.0"}, {"amount": "2339.01"}),
        ({"amount": "2339.0"}, {"amount": None}),
        ({"amount": None}, {"amount": "2339.0"}),
        ({"amount": None}, {"amount": "0"}),
        ({"userId": "one"}, {"userId": "another"}),
    ],
    ids=str,
)
def test_another_amount_or_user_is_a_conflict_and_not_invoked(
    task: Task, service: Service, callback: Json, first: Json, second: Json
) -> None:
    task.handler(event(callback, **first), context())
    with pytest.raises(PaymentConflict):
        task.handler(event(callback, deliveryId=LATER, **second), context())
    # The conflict does not change the first.
    assert task.handler(event(callback, deliveryId=LATER, **first), context())["isDuplicate"]
    assert len(service.requests) == 1


def test_a_conflict_reveals_nothing_about_the_first_delivery(task: Task, callback: Json) -> None:
    task.handler(event(callback), context())
    with pytest.raises(PaymentConflict) as error:
        task.handler(event(callback, userId="another", amount="7"), context())
    assert str(error.value) == "The payment was delivered before with another amount or user"
    # Its context is DynamoDB's answer, which contains the item.
    assert error.value.__suppress_context__


# The claim


@pytest.mark.parametrize(
    "refusal", [("TooManyRequestsException", 429), ("ServiceException", 500), ("AccessDeniedException", 403)], ids=str
)
def test_a_failed_invoke_releases_the_claim_for_the_next_attempt(
    task: Task, claims: Table, service: Service, callback: Json, refusal: tuple[str, int]
) -> None:
    service.refuses_once(*refusal)
    with pytest.raises((ServiceUnavailable, ClientError), match=refusal[0]):
        task.handler(event(callback), context())
    assert items(claims) == []
    # The next attempt may be another delivery.
    assert task.handler(event(callback, deliveryId=LATER), context()) == {"dispatchedBy": LATER, "isDuplicate": False}
    assert len(service.requests) == 2


def test_a_duplicate_during_the_dispatch_waits_for_its_result(
    task: Task, service: Service, callback: Json, before_invoke: BeforeInvoke
) -> None:
    refusals = []

    def deliver_again() -> None:
        with pytest.raises(DispatchInProgress) as error:
            task.handler(event(callback, deliveryId=LATER), context())
        refusals.append(error.value)

    before_invoke(deliver_again)
    assert task.handler(event(callback), context()) == dispatched(callback)
    (refusal,) = refusals
    assert str(refusal) == "Another delivery of the payment is being dispatched"
    assert task.handler(event(callback, deliveryId=LATER), context())["dispatchedBy"] == callback["deliveryId"]
    assert len(service.requests) == 1


def kill() -> None:
    """End the attempt as Lambda does at its timeout: no `except Exception` runs."""
    raise SystemExit


def test_a_killed_attempt_keeps_its_claim_until_its_time_is_up(
    task: Task, claims: Table, service: Service, callback: Json, before_invoke: BeforeInvoke
) -> None:
    before_invoke(kill)
    earliest = time.time() * 1000 + 60_000
    with pytest.raises(SystemExit):
        task.handler(event(callback), context(60_000))
    with pytest.raises(DispatchInProgress):
        task.handler(event(callback, deliveryId=LATER), context())
    assert service.requests == []
    (claim,) = items(claims)
    assert earliest - 1 <= int(claim["in_progress_expiration"]) <= time.time() * 1000 + 60_000


def test_a_killed_attempt_loses_its_claim_when_its_time_is_up(
    task: Task, service: Service, callback: Json, before_invoke: BeforeInvoke
) -> None:
    before_invoke(kill)
    with pytest.raises(SystemExit):
        task.handler(event(callback), context(1))
    time.sleep(0.01)
    assert task.handler(event(callback, deliveryId=LATER), context()) == {"dispatchedBy": LATER, "isDuplicate": False}
    assert len(service.requests) == 1


# What the records say


@pytest.fixture
def recorded(table_of: TableOf, callback: Json) -> Put:
    """Record an earlier delivery of the payment as dispatched; None leaves an attribute out."""
    records = table_of("WalletCallbackRecordTable")

    def put(**changes: Any) -> Json:
        item = {
            "orderId": callback["orderId"],
            "deliveryId": EARLIER,
            "paymentId": callback["paymentId"],
            "userId": callback["userId"],
            "amount": Decimal("2339"),
            "channel": CHANNEL,
            "dispatchedBy": EARLIER,
            **changes,
        }
        item = {name: value for name, value in item.items() if value is not None}
        records.put_item(Item=item)
        return item

    return put


def test_a_payment_recorded_as_dispatched_is_a_duplicate_without_a_claim(
    task: Task, claims: Table, service: Service, callback: Json, recorded: Put
) -> None:
    recorded()
    for _ in range(2):
        assert task.handler(event(callback), context()) == {"dispatchedBy": EARLIER, "isDuplicate": True}
    assert service.requests == []
    # The claim now says so too.
    (claim,) = items(claims)
    assert (claim["status"], json.loads(claim["data"])) == ("COMPLETED", EARLIER)


def test_a_delivery_recorded_as_dispatched_is_no_duplicate_of_itself(
    task: Task, service: Service, callback: Json, recorded: Put
) -> None:
    recorded(deliveryId=callback["deliveryId"], dispatchedBy=callback["deliveryId"])
    assert task.handler(event(callback), context()) == dispatched(callback)
    assert service.requests == []


def test_a_duplicates_record_names_the_delivery_that_was_dispatched(
    task: Task, service: Service, callback: Json, recorded: Put
) -> None:
    recorded(deliveryId="another duplicate", dispatchedBy=EARLIER)
    assert task.handler(event(callback), context()) == {"dispatchedBy": EARLIER, "isDuplicate": True}
    assert service.requests == []


@pytest.mark.parametrize(
    "other",
    [{"orderId": "other"}, {"paymentId": "other"}, {"channel": "Another"}, {"dispatchedBy": None}],
    ids=["another order", "another payment", "another channel", "not dispatched"],
)
def test_an_unrelated_record_does_not_block_a_payment(
    task: Task, service: Service, callback: Json, recorded: Put, other: Json
) -> None:
    recorded(**other)
    assert task.handler(event(callback), context()) == dispatched(callback)
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("earlier", "now"),
    [
        ({"amount": Decimal("2339.01")}, {}),
        ({"amount": None}, {}),
        ({"amount": Decimal(0)}, {"amount": None}),
        ({}, {"amount": None}),
        ({"userId": "another"}, {}),
    ],
    ids=str,
)
def test_a_record_with_another_amount_or_user_is_a_conflict_and_not_invoked(
    task: Task, claims: Table, service: Service, callback: Json, recorded: Put, earlier: Json, now: Json
) -> None:
    recorded(**earlier)
    with pytest.raises(PaymentConflict) as error:
        task.handler(event(callback, **now), context())
    assert str(error.value) == "The payment was delivered before with another amount or user"
    assert service.requests == []
    # The conflict leaves no claim.
    assert items(claims) == []


@pytest.mark.parametrize(
    ("earlier", "now"), [("2339", "2339.00"), ("1.5", "15e-1"), ("1E+2", "100"), ("100", "1E+2"), (None, None)], ids=str
)
def test_a_record_with_the_amount_in_another_spelling_is_the_same_payment(
    task: Task, service: Service, callback: Json, recorded: Put, earlier: str | None, now: str | None
) -> None:
    recorded(amount=earlier and Decimal(earlier))
    assert task.handler(event(callback, amount=now), context())["dispatchedBy"] == EARLIER
    assert service.requests == []


def test_one_page_of_the_latest_records_is_read(load: Load, service: Service, callback: Json) -> None:
    task = load("invoke_process_paid", AWS_ENDPOINT_URL=service.url)
    key = {"orderId": {"S": callback["orderId"]}, "deliveryId": {"S": "1"}}
    record = {"dispatchedBy": {"S": EARLIER}, "userId": {"S": callback["userId"]}, "amount": {"N": "2339"}}
    page = {"Items": [record], "LastEvaluatedKey": key}
    service.first += [(200, b"{}", {}), (200, json.dumps(page).encode(), {})]
    service.answers(200, b"{}")
    assert task.handler(event(callback), context()) == {"dispatchedBy": EARLIER, "isDuplicate": True}
    assert operations(service) == ["PutItem", "Query", "UpdateItem"]
    query = json.loads(service.requests[1].body)
    assert (query["ConsistentRead"], query["ScanIndexForward"]) == (True, False)


@pytest.mark.parametrize(
    ("code", "status", "attempts", "raised"),
    [
        ("ThrottlingException", 400, 2, ServiceUnavailable),
        ("InternalServerError", 500, 2, ServiceUnavailable),
        ("AccessDeniedException", 400, 1, ClientError),
    ],
)
def test_unreadable_records_prevent_the_invoke_and_release_the_claim(
    load: Load,
    service: Service,
    callback: Json,
    pauses: list[float],
    code: str,
    status: int,
    attempts: int,
    raised: type[Exception],
) -> None:
    task = load("invoke_process_paid", AWS_ENDPOINT_URL=service.url)
    service.first.append((200, b"{}", {}))
    for _ in range(attempts):
        service.refuses_once(code, status)
    service.answers(200, b"{}")
    with pytest.raises(raised, match=code):
        task.handler(event(callback), context())
    assert operations(service) == ["PutItem", *["Query"] * attempts, "DeleteItem"]
    assert len(pauses) == attempts - 1


# Storing the dispatch


@pytest.fixture
def accepting(load: Load, service: Service) -> Task:
    """The task with a table that grants the claim and a Lambda that accepts the event; the test decides the rest."""
    service.first += [(200, b"{}", {}), (200, NOTHING_RECORDED, {}), (202, b"", {})]
    return load("invoke_process_paid", AWS_ENDPOINT_URL=service.url)


@pytest.mark.parametrize(
    ("code", "status", "attempts"),
    [
        ("ProvisionedThroughputExceededException", 400, 2),
        ("ThrottlingException", 400, 2),
        ("InternalServerError", 500, 2),
        ("AccessDeniedException", 400, 1),
        ("ResourceNotFoundException", 400, 1),
    ],
)
def test_a_payment_that_lambda_accepted_is_dispatched_even_if_not_stored(
    accepting: Task,
    service: Service,
    callback: Json,
    pauses: list[float],
    log: Log,
    code: str,
    status: int,
    attempts: int,
) -> None:
    service.refuses(code, status)
    assert accepting.handler(event(callback), context()) == dispatched(callback)
    assert operations(service) == ["PutItem", "Query", "Invoke"] + ["UpdateItem"] * attempts
    assert len(pauses) == attempts - 1
    assert [(line["message"], line["deliveryId"]) for line in log()] == [
        ("The dispatch could not be stored", callback["deliveryId"]),
        ("Process-paid invoked", callback["deliveryId"]),
    ]


def test_a_table_that_hangs_after_the_invoke_does_not_fail_the_step(
    accepting: Task, service: Service, callback: Json, pauses: list[float], within: Within
) -> None:
    accepting.claims.client.meta.events.register_first("before-send.dynamodb.UpdateItem", lambda **_: service.hangs())
    with within(2.5):
        assert accepting.handler(event(callback), context()) == dispatched(callback)
    assert operations(service) == ["PutItem", "Query", "Invoke", "UpdateItem", "UpdateItem"]
    assert len(pauses) == 1


def test_a_dispatch_that_could_not_be_stored_is_never_repeated(
    task: Task, claims: Table, service: Service, callback: Json, recorded: Put, log: Log
) -> None:
    def refuse(**_: object) -> None:
        raise EndpointConnectionError(endpoint_url="https://dynamodb")

    events = task.claims.client.meta.events
    events.register_first("before-send.dynamodb.UpdateItem", refuse)
    assert task.handler(event(callback), context()) == dispatched(callback)
    assert log()[0]["message"] == "The dispatch could not be stored"
    events.unregister("before-send.dynamodb.UpdateItem", refuse)
    for delivery in (callback["deliveryId"], LATER):
        with pytest.raises(DispatchInProgress):
            task.handler(event(callback, deliveryId=delivery), context())
    # Once the claim has expired, the record that the next state writes is known.
    recorded(deliveryId=callback["deliveryId"], dispatchedBy=callback["deliveryId"])
    (claim,) = items(claims)
    claims.delete_item(Key={"id": claim["id"]})
    assert task.handler(event(callback, deliveryId=LATER), context())["isDuplicate"]
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("code", "status", "raised"),
    [
        ("ThrottlingException", 400, ServiceUnavailable),
        ("AccessDeniedException", 403, IdempotencyPersistenceLayerError),
    ],
)
def test_a_failed_invoke_is_reported_even_if_its_claim_cannot_be_released(
    load: Load,
    service: Service,
    callback: Json,
    pauses: list[float],
    log: Log,
    code: str,
    status: int,
    raised: type[Exception],
) -> None:
    task = load("invoke_process_paid", AWS_ENDPOINT_URL=service.url)
    service.first += [(200, b"{}", {}), (200, NOTHING_RECORDED, {})]
    service.refuses(code, status)
    with pytest.raises(raised):
        task.handler(event(callback), context())
    assert operations(service) == ["PutItem", "Query", "Invoke"] + ["DeleteItem"] * (len(pauses) + 1)
    assert log() == []


# The claim's item


@pytest.mark.parametrize("days", [1, 35])
def test_a_payment_is_remembered_for_the_configured_number_of_days(
    load: Load,
    task: Task,  # noqa: ARG001 - for its Lambda
    claims: Table,
    callback: Json,
    days: int,
) -> None:
    earliest = int(time.time()) + days * DAY
    load("invoke_process_paid", IDEMPOTENCY_DAYS=str(days)).handler(event(callback), context())
    (claim,) = items(claims)
    assert claim["status"] == "COMPLETED"
    # In seconds, as DynamoDB expects.
    assert earliest <= int(claim["expiration"]) <= time.time() + days * DAY


def test_the_claim_expires_by_the_attribute_that_the_template_names(template: Json, task: Task) -> None:
    properties = template["Resources"]["PaymentIdempotencyTable"]["Properties"]
    assert properties["TimeToLiveSpecification"] == {"AttributeName": task.claims.expiry_attr, "Enabled": True}


def test_an_expired_claim_does_not_block_a_dispatch_even_before_its_removal(
    task: Task, claims: Table, service: Service, callback: Json
) -> None:
    task.handler(event(callback), context())
    (claim,) = items(claims)
    # DynamoDB may take days to remove an expired item.
    claim["expiration"] = int(time.time()) - 2
    claims.put_item(Item=claim)
    assert not task.handler(event(callback, deliveryId=LATER), context())["isDuplicate"]
    assert len(service.requests) == 2


def test_the_claim_contains_nothing_of_the_user_or_the_body(
    task: Task, claims: Table, callback: Json, before_invoke: BeforeInvoke
) -> None:
    seen: list[Json] = []
    before_invoke(lambda: seen.extend(items(claims)))
    task.handler(event(callback), context())
    seen += items(claims)
    assert [item["status"] for item in seen] == ["INPROGRESS", "COMPLETED"]
    for item in seen:
        assert item.keys() <= {"id", "status", "expiration", "in_progress_expiration", "validation", "data"}
        text = json.dumps(item, default=str)
        for private in (callback["userId"], callback["message"], "userId", "amount", "2339"):
            assert private not in text.replace(item["validation"], "").replace(item["id"], "")
        for private in (callback["userId"], callback["message"], callback["body"]):
            assert private not in item["id"] + item["validation"]
    assert json.loads(seen[-1]["data"]) == callback["deliveryId"]


# The table


@pytest.mark.parametrize(
    "refusal",
    [
        ("ProvisionedThroughputExceededException", 400),
        ("ThrottlingException", 400),
        ("RequestLimitExceeded", 400),
        ("InternalServerError", 500),
        ("ServiceUnavailable", 503),
    ],
    ids=str,
)
def test_a_transient_table_error_is_retried_once_then_service_unavailable(
    load: Load, service: Service, callback: Json, pauses: list[float], refusal: tuple[str, int]
) -> None:
    task = load("invoke_process_paid", AWS_ENDPOINT_URL=service.url)
    service.refuses(*refusal)
    with pytest.raises(ServiceUnavailable):
        task.handler(event(callback), context())
    assert operations(service) == ["PutItem", "PutItem"]
    assert len(pauses) == 1


def test_a_single_throttle_of_the_table_goes_unnoticed(
    load: Load, service: Service, callback: Json, pauses: list[float]
) -> None:
    task = load("invoke_process_paid", AWS_ENDPOINT_URL=service.url)
    service.refuses_once("ThrottlingException", 400)
    service.answers(200, NOTHING_RECORDED)
    assert task.handler(event(callback), context()) == dispatched(callback)
    assert operations(service) == ["PutItem", "PutItem", "Query", "Invoke", "UpdateItem"]
    assert len(pauses) == 1


@pytest.mark.parametrize("code", ["AccessDeniedException", "ValidationException", "ResourceNotFoundException"])
def test_a_permanent_table_error_is_named_and_nothing_is_invoked(
    load: Load, service: Service, callback: Json, code: str
) -> None:
    task = load("invoke_process_paid", AWS_ENDPOINT_URL=service.url)
    service.refuses(code, 400)
    with pytest.raises(IdempotencyPersistenceLayerError, match=code):
        task.handler(event(callback), context())
    assert operations(service) == ["PutItem"]


def test_a_table_that_does_not_answer_is_given_up_in_time(
    load: Load, service: Service, callback: Json, pauses: list[float], within: Within
) -> None:
    task = load("invoke_process_paid", AWS_ENDPOINT_URL=service.url)
    service.hangs()
    with within(1.8), pytest.raises(ServiceUnavailable):
        task.handler(event(callback), context())
    assert operations(service) == ["PutItem", "PutItem"]
    assert len(pauses) == 1


def test_a_table_that_cannot_be_reached_is_given_up_in_time(
    load: Load, deaf: str, callback: Json, pauses: list[float], within: Within
) -> None:
    task = load("invoke_process_paid", AWS_ENDPOINT_URL=deaf)
    with within(1.8), pytest.raises(ServiceUnavailable):
        task.handler(event(callback), context())
    assert len(pauses) == 1


# The log


def test_the_log_names_the_delivery_but_not_the_user(task: Task, callback: Json, log: Log) -> None:
    task.handler(event(callback), context())
    (line,) = log()
    assert (
        line.items()
        >= {
            "message": "Process-paid invoked",
            "orderId": "482500007436",
            "paymentId": "pay_bankapp_123",
            "deliveryId": callback["deliveryId"],
            "dispatchedBy": callback["deliveryId"],
        }.items()
    )
    assert callback["userId"] not in json.dumps(line)


def test_the_log_of_a_duplicate_names_the_first_delivery_but_not_the_user(task: Task, callback: Json, log: Log) -> None:
    task.handler(event(callback), context())
    task.handler(event(callback, deliveryId=LATER), context())
    _, line = log()
    assert (
        line.items()
        >= {
            "message": "Payment already dispatched",
            "orderId": "482500007436",
            "paymentId": "pay_bankapp_123",
            "deliveryId": LATER,
            "dispatchedBy": callback["deliveryId"],
        }.items()
    )
    assert callback["userId"] not in json.dumps(line)


def test_a_failed_invoke_is_not_logged_as_invoked(task: Task, service: Service, callback: Json, log: Log) -> None:
    service.refuses("AccessDeniedException", 403)
    with pytest.raises(ClientError):
        task.handler(event(callback), context())
    assert log() == []


def test_a_conflict_is_not_logged_as_invoked(task: Task, callback: Json, log: Log) -> None:
    task.handler(event(callback), context())
    with pytest.raises(PaymentConflict):
        task.handler(event(callback, amount="7"), context())
    assert len(log()) == 1
