"""The local views over HTTP: the outcome of an order, and of all deliveries."""

import pytest

from tests.e2e.conftest import Local, MakeBody


def test_the_view_of_an_order_shows_the_outcome_of_its_deliveries(
    local: Local, make_body: MakeBody, order_id: str
) -> None:
    local.post(make_body(orderId=f"{order_id}-other", userId=None))
    body, invalid = make_body(), make_body(userId=None)
    answers = [local.post(delivery) for delivery in (body, body, invalid)]
    paid, again, refused = answers

    order = local.view(f"orders/{order_id}")

    assert order["orderId"] == order_id
    executions = order["executions"]
    assert [execution["name"] for execution in executions] == [answer.request_id for answer in answers]
    assert [execution["answer"] for execution in executions] == [
        {"status": answer.status, "body": answer.body} for answer in answers
    ]
    for execution, state in zip(executions, ("RespondDispatched", "RespondDispatched", "RespondRefused"), strict=True):
        assert (execution["status"], state in execution["states"]) == ("SUCCEEDED", True)
    assert [record["requestId"] for record in order["records"]] == [paid.request_id, again.request_id]
    (payment,) = order["ledger"]
    assert (payment["dispatchedBy"], payment["dispatches"]) == (order["records"][0]["deliveryId"], "1")
    assert [call["payload"] for call in order["process-paid"]] == [body]
    assert [error["requestId"] for error in order["errors"]] == [refused.request_id]
    assert [refused.request_id in mail["BodyText"] for mail in order["mails"]] == [True]
    assert [event["tags"]["orderId"] for event in order["sentry"]] == [order_id]


@pytest.mark.parametrize("order_id", ["unknown", "%E0%B8%81%2F%20"])
def test_the_view_of_an_unknown_order_is_empty(local: Local, order_id: str) -> None:
    order = local.view(f"orders/{order_id}")
    assert [name for name, found in order.items() if found] == ["orderId"]


def test_the_index_lists_the_views(local: Local, make_body: MakeBody) -> None:
    local.post(make_body(userId=None))
    names = [path.removeprefix("/_local/") for path in local.view("")]
    assert names == ["orders/{orderId}", "mails", "sentry", "process-paid", "records", "ledger", "errors", "executions"]
    for name in ("mails", "sentry", "errors"):
        assert local.view(name), name
