"""CloudFormation's intrinsic functions, as far as the template uses them."""

import re
from collections.abc import Mapping
from typing import Any

NOTHING = object()


def resolved(node: Any, names: Mapping[str, Any], conditions: Mapping[str, Any] | None = None) -> Any:
    """Return a part of a template as CloudFormation would.

    `names` has the value of each reference: of a parameter or a resource by its name, of an attribute by
    `Name.Attribute`. `conditions` is the template's section of that name. Raises KeyError for a name that is not there.
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
    """Return what a reference to a parameter gives: its default where it has no value, a list where it is one."""
    given = str(parameter.get("Default", "")) if value is None else value
    return [item.strip() for item in given.split(",")] if parameter["Type"] == "CommaDelimitedList" else given


def _substituted(text: str, names: Mapping[str, Any]) -> str:
    """Replace ${Name} by its value, and ${!Name} by ${Name}."""
    return re.sub(r"\$\{(!?)([\w:.]+)}", lambda found: f"${{{found[2]}}}" if found[1] else str(names[found[2]]), text)
