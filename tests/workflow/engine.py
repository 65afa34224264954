"""The shipped state machines, and how to run one: in moto or through a Step Functions client."""

import json
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from moto.stepfunctions.parser.models import stepfunctions_parser_backends

from local import intrinsics
from local.intrinsics import parameter_value
from tests.sources import DEFINITION_TEXTS, MACHINES, QUEUES, RESOURCES, TEMPLATE, table

REGION = "ap-southeast-1"
ACCOUNT = "123456789012"
PARAMETERS = {
    "Branch": "test",
    "EmailFrom": "callbacks@example.com",
    "EmailTo": "oncall@example.com,payments@example.com",
}


def names(**parameters: str) -> dict[str, Any]:
    """Return the value of each name in the template, given these parameters and the defaults of all others."""
    given = {**PARAMETERS, **parameters}
    known: dict[str, Any] = {
        "AWS::Partition": "aws",
        "AWS::Region": REGION,
        "AWS::AccountId": ACCOUNT,
        **{name: parameter_value(parameter, given.get(name)) for name, parameter in TEMPLATE["Parameters"].items()},
    }
    for name, resource in RESOURCES.items():
        properties = resource["Properties"]
        match resource["Type"]:
            case "AWS::DynamoDB::Table":
                known[name] = intrinsics.resolved(properties["TableName"], known)
            case "AWS::SQS::Queue":
                queue = intrinsics.resolved(properties["QueueName"], known)
                known[name] = f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{queue}"
                known[f"{name}.Arn"] = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}"
                known[f"{name}.QueueName"] = queue
            case "AWS::Logs::LogGroup":
                known[name] = intrinsics.resolved(properties["LogGroupName"], known)
            case "AWS::Serverless::StateMachine":
                machine = intrinsics.resolved(properties["Name"], known)
                known[name] = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:{machine}"
            case "AWS::Serverless::Function":
                function = intrinsics.resolved(properties["FunctionName"], known)
                known[f"{name}.Arn"] = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{function}"
    return known


def resolved(node: Any, **parameters: str) -> Any:
    """Return a part of the template as CloudFormation resolves it."""
    return intrinsics.resolved(node, names(**parameters), TEMPLATE["Conditions"])


RECORD_TABLE: str = table("WalletCallbackRecordTable")["TableName"]
LEDGER_TABLE: str = table("PaymentLedgerTable")["TableName"]
ERROR_TABLE: str = table("CallbackErrorLogTable")["TableName"]
PARKED_QUEUE: str = resolved({"Ref": "ParkedQueue"})
DEAD_LETTERS: str = resolved({"Ref": "ParkedDeadLetters"})


def queues() -> list[dict[str, Any]]:
    """Return the arguments of CreateQueue for each queue, those that others need first."""
    arguments = []
    for name in QUEUES:
        attributes = resolved(RESOURCES[name]["Properties"])
        queue = attributes.pop("QueueName")
        # In moto an empty answer would really wait.
        attributes.pop("ReceiveMessageWaitTimeSeconds", None)
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in attributes.items()}
        arguments.append({"QueueName": queue, "Attributes": texts})
    return sorted(arguments, key=lambda each: "RedrivePolicy" in each["Attributes"])


@dataclass(frozen=True)
class Machine:
    """A state machine as CloudFormation creates it."""

    name: str
    definition: dict[str, Any]


def machine(file: str, **parameters: str) -> Machine:
    """Return a state machine as it is deployed with these parameters."""
    properties = RESOURCES[MACHINES[file]]["Properties"]
    substitutions = resolved(properties["DefinitionSubstitutions"], **parameters)
    text = re.sub(r"\$\{(\w+)}", lambda found: substitutions[found[1]], DEFINITION_TEXTS[file])
    return Machine(resolved(properties["Name"], **parameters), json.loads(text))


CALLBACK, HEALING = machine("callback"), machine("healing")
PARALLEL_STATES = [
    name
    for state in CALLBACK.definition["States"].values()
    for branch in state.get("Branches", [])
    for name in branch["States"]
]


@dataclass(frozen=True)
class Execution:
    """One execution that has ended.

    `output` is None unless it succeeded. `states` are in the order in which they were entered, but the reports, which
    run in parallel, in the definition's order. `reports` is what they returned. `attempts` (of each task) and
    `waits` (seconds before each retry) are known if the tasks are our own handlers.
    """

    name: str
    arn: str
    status: str
    output: Any
    states: list[str]
    reports: list[dict[str, Any]]
    attempts: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)

    @property
    def answer(self) -> tuple[int, dict[str, Any]]:
        """The HTTP status and the JSON body with which the API would answer."""
        assert self.status == "SUCCEEDED", self
        assert set(self.output) == {"statusCode", "body", "isDone"}
        return self.output["statusCode"], json.loads(self.output["body"])


def create_machine(client: Any, machine: Machine) -> str:
    """Create a state machine and return its ARN; as STANDARD, because only that type's history can be read."""
    # Moto's parser knows only standard child executions.
    definition = json.dumps(machine.definition).replace('"ExecutionType": "EXPRESS"', '"ExecutionType": "STANDARD"')
    created = client.create_state_machine(
        name=machine.name,
        definition=definition,
        roleArn=f"arn:aws:iam::{ACCOUNT}:role/callback-workflow",
        type="STANDARD",
    )
    arn: str = created["stateMachineArn"]
    return arn


def run_in_moto(machine_arn: str, execution_input: Any, name: str = "") -> Execution:
    """Run a state machine to its end, past moto's API, whose part would take longer than the execution itself."""
    name = name or str(uuid4())
    execution = stepfunctions_parser_backends[ACCOUNT][REGION].start_execution(
        machine_arn, name, json.dumps(execution_input)
    )
    return _ended(execution.to_describe_output(), execution.to_history_output()["events"])


def run(client: Any, machine_arn: str, execution_input: Any, timeout_seconds: float = 60) -> Execution:
    """Run a state machine to its end through a Step Functions client."""
    started = client.start_execution(stateMachineArn=machine_arn, name=str(uuid4()), input=json.dumps(execution_input))
    arn = started["executionArn"]
    deadline = time.monotonic() + timeout_seconds
    while (described := client.describe_execution(executionArn=arn))["status"] == "RUNNING":
        assert time.monotonic() < deadline, f"The execution is still running after {timeout_seconds} s"
        time.sleep(0.01)
    pages = client.get_paginator("get_execution_history").paginate(executionArn=arn)
    return _ended(described, [event for page in pages for event in page["events"]])


def _ended(described: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> Execution:
    """Return an execution from the answers of DescribeExecution and GetExecutionHistory."""
    entered = [event["stateEnteredEventDetails"]["name"] for event in events if "stateEnteredEventDetails" in event]
    output = json.loads(described["output"]) if "output" in described else None
    return Execution(
        described["name"],
        described["executionArn"],
        described["status"],
        output,
        _in_order(entered),
        _reports(events),
    )


def _in_order(entered: list[str]) -> list[str]:
    parallel = iter(sorted((state for state in entered if state in PARALLEL_STATES), key=PARALLEL_STATES.index))
    return [next(parallel) if state in PARALLEL_STATES else state for state in entered]


def _reports(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    exits = [event["stateExitedEventDetails"] for event in events if "stateExitedEventDetails" in event]
    outputs = [json.loads(exited["output"]) for exited in exits if exited["name"] == "ReportFailure"]
    return list(outputs[0]["reports"].values()) if outputs else []
