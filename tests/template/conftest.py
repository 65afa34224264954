"""The template and the state machine, as they are written."""

import json
from typing import Any

import pytest
from samcli.yamlhelper import yaml_parse

from local.stack import ROOT


@pytest.fixture(scope="session")
def resources() -> dict[str, Any]:
    """The resources of template.yaml; a tag such as !Sub is written out as {"Fn::Sub": …}."""
    template: dict[str, Any] = yaml_parse((ROOT / "template.yaml").read_text())
    return dict(template["Resources"])


@pytest.fixture(scope="session")
def definition() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((ROOT / "statemachine/callback.asl.json").read_text())
    return loaded


@pytest.fixture(scope="session")
def states(definition: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All states by name, those of parallel branches too."""
    return collect(definition)


def collect(machine: dict[str, Any]) -> dict[str, dict[str, Any]]:
    states = dict(machine["States"])
    for state in machine["States"].values():
        for branch in state.get("Branches", []):
            states |= collect(branch)
    return states
