"""The template and the state machine as they are written."""

import json
from typing import Any

from samcli.yamlhelper import yaml_parse

from local.gateway import resolved
from local.stack import ROOT

# A tag such as !Sub is written out as {"Fn::Sub": …}.
TEMPLATE: dict[str, Any] = yaml_parse((ROOT / "template.yaml").read_text())
RESOURCES: dict[str, Any] = TEMPLATE["Resources"]
FUNCTIONS: dict[str, Any] = {
    name: resource["Properties"]
    for name, resource in RESOURCES.items()
    if resource["Type"] == "AWS::Serverless::Function"
}
DEFINITION_TEXT = (ROOT / "statemachine/callback.asl.json").read_text()
DEFINITION: dict[str, Any] = json.loads(DEFINITION_TEXT)


def table(name: str, branch: str = "test") -> dict[str, Any]:
    """Return what CreateTable takes of the template's table `name`."""
    known = ("TableName", "BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")
    properties = RESOURCES[name]["Properties"]
    return {key: resolved(properties[key], {"Branch": branch}) for key in known if key in properties}


def all_states(machine: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return all states of a machine by name, those of its branches too."""
    states = dict(machine["States"])
    for state in machine["States"].values():
        for branch in state.get("Branches", []):
            states |= all_states(branch)
    return states


STATES = all_states(DEFINITION)
