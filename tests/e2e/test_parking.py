"""A delivery for which no function could run is parked, answered with JSON, and dispatched once when they run again."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.conftest import Local, MakeBody, wait_until
from tests.sources import FUNCTIONS

RUN_SECONDS = 30


@contextmanager
def every_function_throttled(local: Local) -> Iterator[None]:
    client = local.stack.client("lambda")
    names = [f"payment3-{function}-local" for function in FUNCTIONS]
    try:
        for name in names:
            client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
        yield
    finally:
        for name in names:
            client.delete_function_concurrency(FunctionName=name)


def heal(local: Local) -> str:
    """Run the healing workflow as the schedule does, and return how it ended."""
    client = local.stack.client("stepfunctions")
    run = client.start_execution(stateMachineArn=local.stack.outputs["HealingStateMachineArn"], input="{}")

    def status() -> str:
        return str(client.describe_execution(executionArn=run["executionArn"])["status"])

    wait_until(lambda: status() != "RUNNING", RUN_SECONDS)
    return status()


def test_deliveries_that_no_function_could_take_are_each_dispatched_once(
    local: Local, make_body: MakeBody, order_id: str
) -> None:
    bodies = [make_body(orderId=f"{order_id}-{number}", paymentId=f"{order_id}-{number}") for number in range(3)]
    with every_function_throttled(local):
        answers = [local.post(body) for body in bodies]
    for answer in answers:
        assert (answer.status, answer.body["success"]) == (500, False)
        assert answer.body["error"].startswith("Internal error, request id ")
        assert local.errors_of(answer) == []
        local.unreported.add(answer.request_id)
    assert local.payloads_of(order_id) == []

    assert heal(local) == "SUCCEEDED"
    for answer in answers:
        (error,) = local.errors_of(answer)
        local.make_due(answer)
        assert json.loads(error["event"])["body"] in bodies
    assert heal(local) == "SUCCEEDED"

    assert sorted(local.payloads_of(order_id)) == sorted(bodies)
    assert {error["status"] for answer in answers for error in local.errors_of(answer)} == {"resolved"}
