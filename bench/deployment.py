"""What the template deploys with production's parameters, as far as it decides what is logged and billed."""

import tomllib
from collections.abc import Mapping
from functools import cache
from typing import Any

from local.gateway import access_line
from local.intrinsics import parameter_value, resolved
from local.stack import ROOT
from tests.sources import RESOURCES, TEMPLATE

PARAMETERS: dict[str, Any] = TEMPLATE["Parameters"]
HISTORY: dict[str, Any] = RESOURCES["BankAppCallback"]["Properties"]["Logging"]
# The parameters whose other value changes what is logged or runs.
SWITCHES = ("LogExecutionData", "WorkflowLogLevel", "SystemLogLevel", "Tracing", "WatchApi")


@cache
def _production() -> dict[str, str]:
    """Return the parameters that samconfig.toml gives production; all others have the template's defaults."""
    settings = tomllib.loads((ROOT / "samconfig.toml").read_text())
    overrides = settings["prod"]["deploy"]["parameters"]["parameter_overrides"]
    return dict(override.split("=", 1) for override in overrides)


class Deployment:
    """Production, but with these parameters changed; `name` says which."""

    def __init__(self, changes: Mapping[str, str] | None = None) -> None:
        given = _production() | dict(changes or {})
        self.parameters = {name: parameter_value(each, given.get(name)) for name, each in PARAMETERS.items()}
        self.name = " ".join(f"{name}={value}" for name, value in (changes or {}).items()) or "production"

    @property
    def has_data(self) -> bool:
        """Whether a history has each state's input and output."""
        return bool(self._resolved(HISTORY["IncludeExecutionData"]) == "true")

    @property
    def level(self) -> str:
        """Which events a history has: ALL or ERROR."""
        return str(self._resolved(HISTORY["Level"]))

    @property
    def lambda_logs(self) -> dict[str, str]:
        """How Lambda logs: `LogFormat`, `ApplicationLogLevel` and `SystemLogLevel`."""
        config = {**TEMPLATE["Globals"]["Function"]["LoggingConfig"]}
        del config["LogGroup"]
        levels: dict[str, str] = self._resolved(config)
        return levels

    @property
    def is_traced(self) -> bool:
        """Whether X-Ray traces the API, the machines and the functions."""
        return bool(self._resolved(TEMPLATE["Globals"]["Function"]["Tracing"]) == "Active")

    @property
    def alarms(self) -> int:
        """How many alarms exist."""
        return sum(
            each["Type"] == "AWS::CloudWatch::Alarm" and self._exists(each.get("Condition"))
            for each in RESOURCES.values()
        )

    @property
    def healing_minutes(self) -> float:
        return float(self.parameters["HealingMinutes"])

    def api_lines(self, request_id: str, status: int) -> list[str]:
        """Return what API Gateway logs for a callback that the workflow answered."""
        condition, setting, _ = RESOURCES["CallbackApi"]["Properties"]["AccessLogSetting"]["Fn::If"]
        context = {"extendedRequestId": request_id, "status": status, "integration": {"status": 200}}
        return [access_line(setting["Format"], context)] if self._exists(condition) else []

    def _exists(self, condition: str | None) -> bool:
        return condition is None or bool(self._resolved(TEMPLATE["Conditions"][condition]))

    def _resolved(self, node: Any) -> Any:
        return resolved(node, self.parameters, TEMPLATE["Conditions"])


PRODUCTION = Deployment()


def _other_value(name: str) -> str:
    """Return the value that production does not have."""
    (other,) = (value for value in PARAMETERS[name]["AllowedValues"] if value != PRODUCTION.parameters[name])
    return str(other)


# Production with each switch at its other value, and with healing as rare as it may be.
ALTERNATIVES = [
    *(Deployment({name: _other_value(name)}) for name in SWITCHES),
    Deployment({"HealingMinutes": str(PARAMETERS["HealingMinutes"]["MaxValue"])}),
]
