"""Failed and lost deliveries are redriven on the local stack: by the schedule, and by the command."""

import json
import os
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from boto3.dynamodb.types import TypeSerializer

from callbacks import times
from local.stack import ROOT
from tests.e2e.conftest import Answer, Local, MakeBody, wait_until, without_permissions

# The schedule runs every minute, and a run takes a few seconds.
SCHEDULE_SECONDS = 75


def fail_to_dispatch(local: Local, body: str) -> Answer:
    with without_permissions(local, "InvokeProcessPaid"):
        answer = local.post(body)
    assert answer.status == 500
    return answer


def redrive(local: Local, *options: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return run_command(local, "redrive", *options, typed=typed)


def run_command(local: Local, module: str, *options: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command as an operator does, who types an answer to its question."""
    return subprocess.run(
        [sys.executable, "-m", module, "--local", *options],
        cwd=ROOT,
        env=os.environ | {"AWS_PORT": str(local.stack.aws_port)},
        input=typed,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_operator_lists_failures_redrives_one_and_sees_the_outcome(
    local: Local, make_body: MakeBody, order_id: str
) -> None:
    body = make_body()
    answer = fail_to_dispatch(local, body)
    request_id = answer.request_id

    listed = redrive(local, "--order", order_id, "--dry-run")
    assert listed.returncode == 0, listed.stderr
    assert request_id in listed.stdout
    assert local.payloads_of(order_id) == []

    run = redrive(local, "--request", request_id)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "1 redriven: 1 resolved"
    assert local.payloads_of(order_id) == [body]
    assert redrive(local, "--order", order_id).stdout == "Nothing to redrive.\n"
    again = redrive(local, "--request", request_id)
    assert again.returncode == 1
    assert again.stdout == f"Nothing to redrive: no failed delivery {request_id}, or it is resolved.\n"


def test_an_operator_exports_and_erases_what_is_stored_of_a_user(
    local: Local, make_body: MakeBody, order_id: str
) -> None:
    user = f"user-of-{order_id}"
    body = make_body(userId=user, success=False)
    assert local.post(body).status == 200
    exported = run_command(local, "personal_data", "export", "--user", user)
    assert exported.returncode == 0, exported.stderr
    assert [json.loads(line)["body"] for line in exported.stdout.splitlines()] == [body]
    erased = run_command(local, "personal_data", "erase", "--user", user, typed="y\n")
    assert erased.returncode == 0, erased.stderr
    assert local.records_of(order_id) == []


def test_a_delivery_is_redriven_by_the_id_of_its_last_redrive(local: Local, make_body: MakeBody, order_id: str) -> None:
    body = make_body()
    with without_permissions(local, "InvokeProcessPaid"):
        request_id = local.post(body).request_id
        failed = redrive(local, "--request", request_id)
    redrive_id = f"{request_id}-redrive-1"
    assert failed.returncode == 1
    assert f"500 Internal error, request id {redrive_id}" in failed.stdout

    run = redrive(local, "--request", redrive_id)
    assert run.returncode == 0, run.stdout + run.stderr
    assert local.payloads_of(order_id) == [body]


def test_an_operator_dispatches_a_payment_again(local: Local, make_body: MakeBody, order_id: str) -> None:
    body = make_body()
    answer = fail_to_dispatch(local, body)
    assert redrive(local, "--request", answer.request_id).returncode == 0
    options = ("--request", answer.request_id, "--again", "--reason", "process-paid lost it")

    refused = redrive(local, *options, typed="n\n")
    assert (refused.returncode, refused.stdout.endswith("Nothing was changed.\n")) == (1, True)
    assert local.payloads_of(order_id) == [body]

    run = redrive(local, *options, typed="y\n")
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"Dispatch payment {json.loads(body)['paymentId']} of order {order_id} again?" in run.stdout
    assert local.payloads_of(order_id) == [body, body]
    assert local.post(body).body["duplicate"] is True
    (error,) = local.errors_of(answer)
    (decision,) = error["decisions"]
    assert (decision["action"], decision["reason"]) == ("again", "process-paid lost it")
    caller = local.stack.client("sts").get_caller_identity()
    assert decision["by"] == caller["Arn"]


def test_an_operator_accepts_a_conflict(local: Local, make_body: MakeBody, order_id: str) -> None:
    first, second = make_body(), make_body(amount=1)
    assert local.post(first).status == 200
    request_id = local.post(second).request_id

    run = redrive(local, "--request", request_id, "--accept", "--reason", "the bank confirms 1 baht", "--yes")
    assert run.returncode == 0, run.stdout + run.stderr
    assert local.payloads_of(order_id) == [first, second]


def test_an_operator_dismisses_a_refused_callback(local: Local, make_body: MakeBody, order_id: str) -> None:
    answer = local.post(make_body(userId=None))
    run = redrive(local, "--request", answer.request_id, "--dismiss", "--reason", "a test of the bank", "--yes")
    assert run.returncode == 0, run.stdout + run.stderr
    (error,) = local.errors_of(answer)
    assert (error["status"], error["attempts"]) == ("resolved", 0)
    assert error["lastResult"].startswith("dismissed by arn:")
    assert local.payloads_of(order_id) == []


def test_an_id_that_begins_with_a_hyphen_is_looked_up(local: Local) -> None:
    run = redrive(local, "--request", "-D5fJx_0aBcDeFg", "--dismiss", "--reason", "unknown", "--yes")
    assert (run.returncode, run.stdout) == (1, "No failed delivery of the id -D5fJx_0aBcDeFg.\n")


def test_a_redriven_invalid_callback_is_refused_again(local: Local, make_body: MakeBody) -> None:
    before = datetime.now(UTC).isoformat()
    answer = local.post(make_body(userId=None))
    run = redrive(local, "--since", before, "--refused")
    assert run.returncode == 1
    assert "500 userId: is missing" in run.stdout
    (error,) = local.errors_of(answer)
    assert (error["status"], error["attempts"]) == ("open", 1)


def test_a_paid_record_of_a_lost_execution_is_dispatched(local: Local, make_body: MakeBody, order_id: str) -> None:
    body = make_body()
    received_at = times.iso(datetime.now(UTC) - timedelta(minutes=10))
    request_id = str(uuid.uuid4())
    lost = {
        "orderId": order_id,
        "deliveryId": f"{received_at}#{request_id}",
        "paymentId": f"pay_{order_id}",
        "userId": "somebody",
        "success": True,
        "extra": "{}",
        "body": body,
        "channel": "BankApp",
        "shard": "BankApp#0",
        "requestId": request_id,
        "receivedAt": received_at,
        "executionArn": "arn:of:an-execution-that-was-lost",
        "undispatchedSince": received_at,
    }
    local.stack.client("dynamodb").put_item(
        TableName=local.stack.outputs["RecordTableName"],
        Item={name: TypeSerializer().serialize(value) for name, value in lost.items()},
    )
    run = redrive(local, "--order", order_id)
    assert run.returncode == 0, run.stdout + run.stderr
    assert local.payloads_of(order_id) == [body]
    (record,) = local.records_of(order_id)
    assert record["dispatchedBy"] == record["deliveryId"]
    assert "undispatchedSince" not in record


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--since", "yesterday"], "since: must be a time such as"),
        (["--order", ""], "orderId: must be a non-empty string"),
    ],
)
def test_a_wrong_option_is_reported_clearly(local: Local, options: list[str], message: str) -> None:
    run = redrive(local, *options)
    assert run.returncode == 1
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_an_unknown_stack_is_reported_clearly(local: Local) -> None:
    environment = os.environ | {
        "AWS_ENDPOINT_URL": local.stack.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    run = subprocess.run(
        [sys.executable, "-m", "redrive", "--stack", "nowhere", "--order", "1"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "nowhere" in run.stderr
    assert "Traceback" not in run.stderr


def test_the_schedule_redrives_a_failed_dispatch(local: Local, make_body: MakeBody, order_id: str) -> None:
    body = make_body()
    answer = fail_to_dispatch(local, body)
    local.make_due(answer)
    local.set_schedule("ENABLED")
    try:
        wait_until(lambda: local.errors_of(answer)[0]["status"] == "resolved", SCHEDULE_SECONDS)
    finally:
        local.set_schedule("DISABLED")
    (error,) = local.errors_of(answer)
    assert (error["status"], error["lastResult"]) == ("resolved", "200 BankApp callback recorded")
    assert local.payloads_of(order_id) == [body]
    (record,) = local.records_of(order_id)
    assert record["dispatchedBy"] == record["deliveryId"]
