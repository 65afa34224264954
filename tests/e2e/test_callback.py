"""The effects of a callback sent over HTTP to the local stack, from the answer to the last table."""

import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest

from tests.e2e.conftest import Local, MakeBody, wait_until
from tests.outcomes import OUTCOMES, Outcome, body_of


def test_a_paid_callback_is_recorded_and_processed_once(local: Local, make_body: MakeBody, order_id: str) -> None:
    body = make_body()
    answer = local.post(body)
    assert answer.status == 200
    assert answer.body == {
        "success": True,
        "message": "BankApp callback recorded",
        "orderId": order_id,
        "paymentId": f"pay_{order_id}",
        "processing": True,
        "duplicate": False,
    }
    (record,) = local.records_of(order_id)
    assert record["body"] == body
    assert record["amount"] == Decimal(2339)
    assert record["requestId"] == answer.request_id
    assert record["sourceIp"] == "127.0.0.1"
    assert local.payloads_of(order_id) == [body]


def test_two_hundred_simultaneous_deliveries_from_ten_addresses_are_paid_once(
    local: Local, make_body: MakeBody, order_id: str
) -> None:
    body = make_body()
    addresses = [f"127.0.0.{number}" for number in range(1, 11)] * 20
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda address: local.send(body, source=address), addresses))
    assert [answer.status for answer in answers] == [200] * 200
    assert [answer.body["duplicate"] for answer in answers].count(False) == 1
    records = local.records_of(order_id)
    assert sorted(record["sourceIp"] for record in records) == sorted(addresses)
    assert {record["requestId"] for record in records} == {answer.request_id for answer in answers}
    assert local.payloads_of(order_id) == [body]


def test_ten_payments_of_an_order_at_once_are_all_dispatched_and_told(
    local: Local, make_body: MakeBody, order_id: str
) -> None:
    bodies = [make_body(paymentId=f"{order_id}-{number}") for number in range(10)]
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(local.post, bodies))
    assert [(answer.status, answer.body["duplicate"]) for answer in answers] == [(200, False)] * 10
    assert sorted(local.payloads_of(order_id)) == bodies
    # The first of them may have found no other.
    mailed = [mail["Subject"] for answer in answers for mail in local.mails_of(answer)]
    assert mailed in (["[local] BankApp callback: OrderPaidTwice"] * told for told in (9, 10))


def test_fifty_mixed_simultaneous_deliveries_each_have_their_outcome(
    local: Local, make_body: MakeBody, order_id: str
) -> None:
    def of_payment(number: int, **fields: object) -> str:
        return make_body(orderId=f"{order_id}-{number}", paymentId=f"pay-{number}", **fields)

    paid = [of_payment(number, amount=100 + number) for number in range(25)]
    again = paid[:10]
    declined = [of_payment(number, success=False) for number in range(25, 35)]
    invalid = [of_payment(number, userId=None) for number in range(35, 40)]
    bodies = [*paid, *declined, *again, *invalid]
    random.Random(1).shuffle(bodies)  # noqa: S311 any order will do
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(local.post, bodies))

    outcomes = Counter(
        (answer.status, answer.body.get("processing"), answer.body.get("duplicate")) for answer in answers
    )
    assert outcomes == {(200, True, False): 25, (200, True, True): 10, (200, False, False): 10, (500, None, None): 5}
    recorded = [record["body"] for record in local.server.views.records() if record["orderId"].startswith(order_id)]
    assert sorted(recorded) == sorted([*paid, *again, *declined])
    refused = [error for error in local.server.views.errors() if str(error.get("orderId")).startswith(order_id)]
    assert sorted(json.loads(error["event"])["body"] for error in refused) == sorted(invalid)
    assert sorted(local.payloads_of(order_id)) == sorted(paid)


def test_a_payment_with_another_amount_is_a_conflict(local: Local, make_body: MakeBody, order_id: str) -> None:
    local.post(make_body())
    answer = local.post(make_body(amount=1))
    # Nobody signed it: the answer does not tell whether a guess is right.
    assert (answer.status, answer.body) == (200, local.post(make_body()).body)
    # Another execution reports it.
    wait_until(lambda: local.errors_of(answer), 20)
    (error,) = local.errors_of(answer)
    assert error["error"] == "PaymentConflict"
    assert len(local.records_of(order_id)) == 3
    assert len(local.payloads_of(order_id)) == 1


def test_a_declined_payment_is_recorded_but_not_processed(local: Local, make_body: MakeBody, order_id: str) -> None:
    answer = local.post(make_body(success=False))
    assert (answer.status, answer.body["processing"]) == (200, False)
    assert len(local.records_of(order_id)) == 1
    assert local.payloads_of(order_id) == []


def test_callbacks_of_an_order_are_read_in_order_of_arrival(local: Local, make_body: MakeBody, order_id: str) -> None:
    messages = ["first", "second", "third"]
    for message in messages:
        local.post(make_body(success=False, message=message))
    items = local.stack.client("dynamodb").query(
        TableName=local.stack.outputs["RecordTableName"],
        KeyConditionExpression="orderId = :order",
        ExpressionAttributeValues={":order": {"S": order_id}},
    )["Items"]
    assert [item["message"]["S"] for item in items] == messages


# API Gateway replaces a missing body with an empty object.
OVER_HTTP = OUTCOMES | {
    "empty": Outcome(refusal="orderId: is missing; paymentId: is missing; userId: is missing; success: is missing")
}


@pytest.mark.parametrize("name", OVER_HTTP)
def test_every_event_file_has_its_outcome(local: Local, name: str) -> None:
    outcome = OVER_HTTP[name]
    answer = local.post(body_of(name))
    assert answer.status == outcome.status
    outcome.assert_met_by(answer.body)
    assert len(local.errors_of(answer)) == (outcome.status != 200)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('"quoted"', id="quotes"),
        pytest.param("O'Brien's", id="apostrophes"),
        pytest.param("\\ \\' \\\\ \\n", id="backslashes"),
        pytest.param("a/b </script>", id="slashes"),
        pytest.param("one\ntwo\r\nthree\tfour", id="line breaks"),
        pytest.param("ชำระเงินสำเร็จ", id="Thai"),
        pytest.param("🎉👩‍👩‍👧‍👦", id="emoji"),
        pytest.param("\x00\x07\x1b\x7f\u2028\ufeff", id="control characters"),
        pytest.param("$input.body ${q} #set($x = 1) #end", id="template language"),
        pytest.param("{\"a\": 'b'} States.Format('{}')", id="intrinsic functions"),
    ],
)
@pytest.mark.parametrize("is_json", [True, False], ids=["in a JSON body", "as the body"])
def test_the_body_arrives_byte_for_byte(
    local: Local, make_body: MakeBody, order_id: str, text: str, is_json: bool
) -> None:
    body = f" {make_body(message=text)}\n" if is_json else text
    answer = local.post(body)
    if is_json:
        (record,) = local.records_of(order_id)
        assert record["body"] == body
        assert local.payloads_of(order_id) == [body]
    else:
        (error,) = local.errors_of(answer)
        assert json.loads(error["event"])["body"] == body


@pytest.mark.parametrize("name", ["exact-amount", "unknown-fields", "text-of-all-kinds"])
def test_process_paid_receives_the_bytes_of_the_callback(local: Local, name: str) -> None:
    body = body_of(name)
    local.post(body)
    payloads = local.payloads_of(json.loads(body)["orderId"])
    assert payloads == [body]


def test_a_failure_reaches_all_three_reports(local: Local, make_body: MakeBody, order_id: str) -> None:
    body = make_body(userId=None)
    answer = local.post(body)
    assert answer.status == 500
    assert answer.body == {
        "success": False,
        "error": "userId: is missing",
        "message": "Failed to process bank app callback",
    }
    (error,) = local.errors_of(answer)
    expected = {
        "functionName": "bankappcallback",
        "channel": "BankApp",
        "step": "ValidateCallback",
        "error": "InvalidCallback",
        "orderId": order_id,
        "chargeId": f"pay_{order_id}",
    }
    assert expected.items() <= error.items()
    assert json.loads(error["event"])["body"] == body
    assert answer.request_id in error["executionArn"]
    (mail,) = local.mails_of(answer)
    assert (mail["Source"], mail["To"]) == ("payments@example.com", ["on-duty@example.com"])
    assert mail["Subject"] == "[local] BankApp callback: InvalidCallback"
    for part in (mail["BodyText"], mail["BodyHtml"]):
        assert all(text in part for text in ("userId: is missing", order_id, error["executionArn"]))
    (event,) = local.sentry_events_of(answer)
    assert event["tags"] == {
        "function": "bankappcallback",
        "environment": "local",
        "step": "ValidateCallback",
        "orderId": order_id,
        "chargeId": f"pay_{order_id}",
    }
    assert event["environment"] == "local"
    assert event["exception"]["values"] == [{"type": "InvalidCallback", "value": "userId: is missing"}]


def test_ids_are_found_in_a_truncated_body(local: Local, make_body: MakeBody, order_id: str) -> None:
    answer = local.post(make_body()[:-20])
    (error,) = local.errors_of(answer)
    assert (error["orderId"], error["chargeId"]) == (order_id, f"pay_{order_id}")


def test_a_body_over_the_limit_is_refused_and_logged(local: Local, make_body: MakeBody, order_id: str) -> None:
    answer = local.post(make_body(message="x" * 300_000))
    assert answer.status == 500
    assert answer.body["error"].endswith("characters, the limit is 8192 bytes of JSON")
    (error,) = local.errors_of(answer)
    assert error["orderId"] == order_id
    event = json.loads(error["event"])
    assert (len(event["body"]), event["bodyLength"] > 300_000) == (512, True)
