"""How much of CloudWatch's log an execution fills, as the page about capacity says."""

import json
import re

import pytest

from local.stack import ROOT
from tests.workflow.account import Workflow, client

PAGE = (ROOT / "docs/capacity.md").read_text()
PAID = json.loads((ROOT / "events/paid.json").read_text())


def kilobytes_of_history() -> float:
    """Return the size of the only execution's history with its data."""
    stepfunctions = client("stepfunctions")
    machines = stepfunctions.list_state_machines()["stateMachines"]
    (arn,) = [
        execution["executionArn"]
        for machine in machines
        for execution in stepfunctions.list_executions(stateMachineArn=machine["stateMachineArn"])["executions"]
    ]
    history = stepfunctions.get_execution_history(executionArn=arn, maxResults=1000)
    assert "nextToken" not in history
    return len(json.dumps(history["events"], default=str).encode()) / 1000


@pytest.mark.parametrize(
    ("text", "delivery"),
    [
        (r"each (\d+) kB: ", PAID),
        # As the API's request template cuts a body that is too large.
        (r"with its data \| .* \| (\d+) kB", PAID | {"body": "x" * 1024, "bodyLength": 9000}),
    ],
    ids=["paid", "refused"],
)
def test_a_history_is_as_large_as_the_page_says(workflow: Workflow, text: str, delivery: object) -> None:
    workflow.run(delivery)
    (stated,) = re.findall(text, PAGE)
    assert 0.7 * int(stated) < kilobytes_of_history() <= int(stated)
