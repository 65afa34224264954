"""The template and the state machines as they stand in the repository."""

import json
from typing import Any

from samcli.yamlhelper import yaml_parse

from local.intrinsics import resolved
from local.stack import ROOT

# A tag such as !Sub becomes {"Fn::Sub": …}.
TEMPLATE: dict[str, Any] = yaml_parse((ROOT / "template.yaml").read_text())
RESOURCES: dict[str, Any] = TEMPLATE["Resources"]
FUNCTIONS: dict[str, Any] = {
    name: resource["Properties"]
    for name, resource in RESOURCES.items()
    if resource["Type"] == "AWS::Serverless::Function"
}
# What a cold start takes at most before the handler begins; Lambda's Timeout does not count it.
COLD_START_SECONDS = 1
# The state machines by file name.
MACHINES = {"callback": "BankAppCallback", "healing": "BankAppHealing"}
DEFINITION_TEXTS = {name: (ROOT / f"statemachine/{name}.asl.json").read_text() for name in MACHINES}
DEFINITIONS: dict[str, dict[str, Any]] = {name: json.loads(text) for name, text in DEFINITION_TEXTS.items()}


def table(name: str, branch: str = "test") -> dict[str, Any]:
    """Return the arguments of CreateTable for the template's table `name`."""
    known = ("TableName", "BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")
    properties = RESOURCES[name]["Properties"]
    return {key: resolved(properties[key], {"Branch": branch}) for key in known if key in properties}


def all_states(machine: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return all states of a machine by name, including those inside Parallel and Map states."""
    states = dict(machine["States"])
    for state in machine["States"].values():
        inner = [*state.get("Branches", []), *([state["ItemProcessor"]] if "ItemProcessor" in state else [])]
        for sub_machine in inner:
            states |= all_states(sub_machine)
    return states


# By machine first: both use some of the tasks.
STATES = {name: all_states(machine) for name, machine in DEFINITIONS.items()}
# Each check and the parameter that switches it on, and the functions that every callback passes through.
CHECKS = {"VerifySignature": "SignatureMode", "CrossCheckPayment": "CrossCheckMode", "InquirePayment": "InquiryMode"}
CALLBACK_TASKS = [name for name in FUNCTIONS if name in STATES["callback"] and name not in CHECKS]


def timeout_of(function: str) -> float:
    """Return the seconds after which Lambda ends the function's handler."""
    return float(FUNCTIONS[function].get("Timeout", TEMPLATE["Globals"]["Function"]["Timeout"]))


def statements_of(role: str, is_traced: bool = False) -> list[dict[str, Any]]:
    """Return the statements of a role's policies in order, with `Action` always a list; those for X-Ray if traced."""
    policies = RESOURCES[role]["Properties"]["Policies"]
    statements = []
    for statement in (statement for policy in policies for statement in policy["PolicyDocument"]["Statement"]):
        if condition := statement.get("Fn::If"):
            name, traced, untraced = condition
            assert (name, untraced) == ("Traces", {"Ref": "AWS::NoValue"})
            chosen = [traced] if is_traced else []
        else:
            chosen = [statement]
        statements += [
            {**each, "Action": [action] if isinstance(action := each["Action"], str) else action} for each in chosen
        ]
    return statements


QUEUES = [name for name, resource in RESOURCES.items() if resource["Type"] == "AWS::SQS::Queue"]
TABLES = [name for name, resource in RESOURCES.items() if resource["Type"] == "AWS::DynamoDB::Table"]
