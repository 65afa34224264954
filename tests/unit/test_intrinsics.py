"""CloudFormation's functions as local/intrinsics.py evaluates them, checked against AWS's documentation."""

from typing import Any

import pytest

from local.intrinsics import parameter_value, resolved

NAMES = {
    "Branch": "test",
    "Ips": ["203.0.113.0/24", "198.51.100.7/32"],
    "Empty": "",
    "Table": "records",
    "Table.Arn": "arn:table/records",
    "AWS::Region": "ap-southeast-1",
}
CONDITIONS = {
    "IsTest": {"Fn::Equals": [{"Ref": "Branch"}, "test"]},
    "IsProduction": {"Fn::Equals": [{"Ref": "Branch"}, "prod"]},
    "HasIps": {"Fn::Not": [{"Fn::Equals": [{"Fn::Join": ["", {"Ref": "Ips"}]}, ""]}]},
    "IsNotTest": {"Fn::Not": [{"Fn::If": ["IsTest", True, False]}]},
}
NO_VALUE = {"Ref": "AWS::NoValue"}


def chosen(condition: str, yes: Any = "yes", no: Any = "no") -> dict[str, Any]:
    return {"Fn::If": [condition, yes, no]}


@pytest.mark.parametrize(
    ("node", "value"),
    [
        ("text", "text"),
        (5, 5),
        (True, True),
        (None, None),
        ([], []),
        ({}, {}),
        ({"Ref": "Branch"}, "test"),
        ({"Ref": "Ips"}, ["203.0.113.0/24", "198.51.100.7/32"]),
        ({"Fn::GetAtt": ["Table", "Arn"]}, "arn:table/records"),
        ({"Fn::Sub": "a-${Branch}-${AWS::Region}"}, "a-test-ap-southeast-1"),
        ({"Fn::Sub": "${Table.Arn}/*"}, "arn:table/records/*"),
        ({"Fn::Sub": "$Branch {Branch} ${!Branch} ${!q}"}, "$Branch {Branch} ${Branch} ${q}"),
        ({"Fn::Sub": ["${Branch}/${Own}", {"Own": {"Ref": "Table"}}]}, "test/records"),
        ({"Fn::Sub": ["${Branch}", {"Branch": "own"}]}, "own"),
        ({"Fn::Sub": ["${Own}", {"Own": "${Branch}"}]}, "${Branch}"),
        ({"Fn::Equals": ["a", "a"]}, True),
        ({"Fn::Equals": [{"Ref": "Branch"}, "prod"]}, False),
        ({"Fn::Not": [{"Fn::Equals": ["a", "a"]}]}, False),
        ({"Fn::Or": [{"Fn::Equals": ["a", "b"]}, {"Fn::Equals": ["a", "a"]}]}, True),
        ({"Fn::Or": [{"Fn::Equals": ["a", "b"]}, {"Fn::Equals": ["a", "c"]}]}, False),
        ({"Fn::Join": ["-", ["a", {"Ref": "Branch"}]]}, "a-test"),
        ({"Fn::Join": [",", {"Ref": "Ips"}]}, "203.0.113.0/24,198.51.100.7/32"),
        ({"Fn::Select": [1, {"Ref": "Ips"}]}, "198.51.100.7/32"),
        ({"Fn::Select": ["0", ["a", "b"]]}, "a"),
        (chosen("IsTest"), "yes"),
        (chosen("IsProduction"), "no"),
        (chosen("HasIps"), "yes"),
        (chosen("IsNotTest"), "no"),
        (chosen("IsTest", {"a": {"Ref": "Branch"}}), {"a": "test"}),
    ],
    ids=str,
)
def test_a_function_returns_what_cloudformation_returns(node: Any, value: Any) -> None:
    assert resolved(node, NAMES, CONDITIONS) == value
    assert resolved({"a": [node]}, NAMES, CONDITIONS) == {"a": [value]}


def test_a_property_without_a_value_disappears() -> None:
    node = {"kept": 1, "gone": NO_VALUE, "chosen": chosen("IsProduction", 1, NO_VALUE), "list": [1, NO_VALUE, 2]}
    assert resolved(node, NAMES, CONDITIONS) == {"kept": 1, "list": [1, 2]}


def test_only_the_chosen_branch_is_evaluated() -> None:
    assert resolved(chosen("IsTest", "yes", {"Ref": "Unknown"}), NAMES, CONDITIONS) == "yes"


@pytest.mark.parametrize(
    "node",
    [
        {"Ref": "Unknown"},
        {"Fn::GetAtt": ["Table", "Unknown"]},
        {"Fn::Sub": "${Unknown}"},
        {"Fn::Sub": ["${Unknown}", {"Own": 1}]},
        chosen("Unknown"),
    ],
    ids=str,
)
def test_an_unknown_name_is_an_error(node: Any) -> None:
    with pytest.raises(KeyError, match="Unknown"):
        resolved(node, NAMES, CONDITIONS)


def test_an_unknown_condition_is_an_error() -> None:
    with pytest.raises(KeyError):
        resolved(chosen("IsTest"), NAMES)


def test_the_arguments_are_not_changed() -> None:
    node, names = {"a": [{"Ref": "Branch"}, NO_VALUE]}, dict(NAMES)
    resolved(node, names, CONDITIONS)
    assert node == {"a": [{"Ref": "Branch"}, NO_VALUE]}
    assert names == NAMES


@pytest.mark.parametrize(
    ("parameter", "given", "value"),
    [
        ({"Type": "String"}, "a", "a"),
        ({"Type": "String", "Default": "b"}, "a", "a"),
        ({"Type": "String", "Default": "b"}, "", ""),
        ({"Type": "String", "Default": "b"}, None, "b"),
        ({"Type": "String"}, None, ""),
        ({"Type": "Number", "Default": 15}, None, "15"),
        ({"Type": "Number", "Default": 15}, "16", "16"),
        ({"Type": "CommaDelimitedList", "Default": "a,b"}, None, ["a", "b"]),
        ({"Type": "CommaDelimitedList", "Default": "a,b"}, "c", ["c"]),
        ({"Type": "CommaDelimitedList", "Default": ""}, None, [""]),
    ],
    ids=str,
)
def test_a_parameter_has_its_value_or_default_as_a_text_or_a_list(
    parameter: dict[str, Any], given: str | None, value: Any
) -> None:
    assert parameter_value(parameter, given) == value
