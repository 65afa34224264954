from collections.abc import Callable

import pytest

from callbacks import config
from callbacks.errors import ConfigurationError
from tests.sources import FUNCTIONS
from tests.unit.kit import Load


@pytest.mark.parametrize("read", [config.required, config.optional])
def test_a_setting_is_the_environment_variable_of_its_name(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[str], str | None]
) -> None:
    monkeypatch.setenv("SETTING", " a,b ")
    assert read("SETTING") == " a,b "


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_or_empty_required_setting_is_named_by_the_error(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("SETTING", raising=False)
    if value is not None:
        monkeypatch.setenv("SETTING", value)
    with pytest.raises(ConfigurationError, match=r"^The environment variable SETTING is not set\.$"):
        config.required("SETTING")


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_or_empty_optional_setting_is_none(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("SETTING", raising=False)
    if value is not None:
        monkeypatch.setenv("SETTING", value)
    assert config.optional("SETTING") is None


# Without its DSN, Sentry is off.
REQUIRED = [
    (properties["Handler"].removesuffix(".handler"), variable)
    for properties in FUNCTIONS.values()
    for variable in properties.get("Environment", {}).get("Variables", {})
    if variable != "SENTRY_DSN"
]


@pytest.mark.parametrize(("task", "variable"), REQUIRED)
def test_a_function_without_one_of_its_settings_fails_at_import(load: Load, task: str, variable: str) -> None:
    with pytest.raises(ConfigurationError, match=variable):
        load(task, **{variable: ""})


def test_a_setting_is_read_on_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETTING", "before")
    assert config.required("SETTING") == "before"
    monkeypatch.setenv("SETTING", "after")
    assert config.required("SETTING") == "after"
