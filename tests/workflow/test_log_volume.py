"""How much of CloudWatch's log an execution fills, as the pages about capacity and security say."""

import json
import re
from typing import Any

import pytest

from bench.log import billed_bytes, history_lines
from local.stack import ROOT
from tests.workflow.account import Workflow, client
from tests.workflow.genuine import OTHER_KEY, delivery, forget_secrets, put_secret

CAPACITY = (ROOT / "docs/capacity.md").read_text()
SECURITY = (ROOT / "docs/security.md").read_text().replace("\n", " ")
PAID = json.loads((ROOT / "events/paid.json").read_text())


def history() -> Any:
    """Return the events of the only execution, with their data."""
    stepfunctions = client("stepfunctions")
    machines = stepfunctions.list_state_machines()["stateMachines"]
    (arn,) = [
        execution["executionArn"]
        for machine in machines
        for execution in stepfunctions.list_executions(stateMachineArn=machine["stateMachineArn"])["executions"]
    ]
    page = stepfunctions.get_execution_history(executionArn=arn, maxResults=1000)
    assert "nextToken" not in page
    return json.loads(json.dumps(page["events"], default=str))


def kilobytes_of_history() -> float:
    return len(json.dumps(history()).encode()) / 1000


@pytest.mark.parametrize(
    ("text", "delivery"),
    [
        (r"each (\d+) kB: ", PAID),
        # As the API's request template cuts a body that is too large.
        (r"with its data \| .* \| (\d+) kB", PAID | {"body": "x" * 512, "bodyLength": 9000}),
    ],
    ids=["paid", "refused"],
)
def test_a_history_is_as_large_as_the_page_says(workflow: Workflow, text: str, delivery: object) -> None:
    workflow.run(delivery)
    (stated,) = re.findall(text, CAPACITY)
    assert 0.9 * int(stated) < kilobytes_of_history() <= int(stated)


def test_a_paid_callback_makes_few_events_because_each_is_billed(workflow: Workflow) -> None:
    workflow.run(PAID)
    events = history()
    decisions = (ROOT / "docs/decisions.md").read_text()
    (count, kilobytes), *_ = re.findall(r"That leaves (\d+) events, ([\d.]+) kB without data", decisions)
    logged = billed_bytes(history_lines(events, has_data=False))
    assert (str(len(events)), f"{logged / 1000:.1f}") == (count, kilobytes)


JSON = json.dumps({f"member {number}": number for number in range(1000)})
FORGED = delivery(OTHER_KEY)


@pytest.mark.parametrize(
    ("text", "forged"),
    [
        (r"takes (\d+) kB for 32 KiB of JSON", FORGED | {"body": JSON[:512], "bodyLength": 32 * 1024}),
        (r"and (\d+) kB for 8 KiB;", FORGED | {"body": JSON[:8192]}),
        (
            r"logging escapes them, (\d+) kB",
            FORGED | {"body": "\0" * 8192, "headers": dict.fromkeys(FORGED["headers"], '"' * 1024)},
        ),
    ],
    ids=["32 KiB", "8 KiB", "escaped"],
)
def test_the_history_of_a_forgery_is_as_large_as_the_page_says(workflow: Workflow, text: str, forged: object) -> None:
    forget_secrets(workflow)
    put_secret()
    workflow.deploy(SignatureMode="enforce")
    workflow.run(forged)
    assert [failure["error"] for failure in workflow.errors] == ["InvalidSignature"]
    (stated,) = re.findall(text, SECURITY)
    assert 0.9 * int(stated) < kilobytes_of_history() <= int(stated)


@pytest.mark.parametrize("character", ['"', "\\", "\0", "ก"])
def test_a_forgery_that_is_cut_takes_at_most_twice_its_size(workflow: Workflow, character: str) -> None:
    forget_secrets(workflow)
    put_secret()
    workflow.deploy(SignatureMode="enforce")
    size = 32 * 1024
    workflow.run(FORGED | {"body": character * 512, "bodyLength": size // len(character.encode())})
    assert kilobytes_of_history() * 1000 <= 2 * size
