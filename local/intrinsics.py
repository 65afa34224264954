"""CloudFormation's intrinsic functions, those that the template uses."""

import re
from collections.abc import Mapping
from typing import Any

NOTHING = object()


def resolved(node: Any, names: Mapping[str, Any], conditions: Mapping[str, Any] | None = None) -> Any:
    """Return a part of a template with its functions evaluated, as CloudFormation does.

    `names` maps each reference to its value: a parameter or resource by name, an attribute by `Name.Attribute`.
    `conditions` is the template's `Conditions` section. Raises KeyError for an unknown name.
    """
    known = {**names, "AWS::NoValue": NOTHING}

    def resolve(node: Any) -> Any:  # noqa: PLR0911 one return per function
        match node:
            case {"Ref": name}:
                return known[name]
            case {"Fn::GetAtt": [name, attribute]}:
                return known[f"{name}.{attribute}"]
            case {"Fn::Sub": [text, more]}:
                return _substituted(text, {**known, **resolve(more)})
            case {"Fn::Sub": text}:
                return _substituted(text, known)
            case {"Fn::If": [condition, yes, no]}:
                return resolve(yes if resolve((conditions or {})[condition]) else no)
            case {"Fn::Equals": [one, other]}:
                return resolve(one) == resolve(other)
            case {"Fn::Not": [condition]}:
                return not resolve(condition)
            case {"Fn::Or": each}:
                return any(resolve(condition) for condition in each)
            case {"Fn::Join": [separator, parts]}:
                return separator.join(resolve(parts))
            case {"Fn::Select": [index, parts]}:
                return resolve(parts)[int(index)]
            case dict():
                members = {key: resolve(value) for key, value in node.items()}
                return {key: value for key, value in members.items() if value is not NOTHING}
            case list():
                return [value for value in map(resolve, node) if value is not NOTHING]
        return node

    return resolve(node)


def parameter_value(parameter: Mapping[str, Any], value: str | None) -> Any:
    """Return the value of a reference to a parameter: a list for a list type, the default if no value is given."""
    given = str(parameter.get("Default", "")) if value is None else value
    return [item.strip() for item in given.split(",")] if parameter["Type"] == "CommaDelimitedList" else given


def _substituted(text: str, names: Mapping[str, Any]) -> str:
    """Replace ${Name} by its value, and ${!Name} by ${Name}."""
    return re.sub(r"\$\{(!?)([\w:.]+)}", lambda found: f"${{{found[2]}}}" if found[1] else str(names[found[2]]), text)
