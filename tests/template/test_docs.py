"""README.md and docs/ agree with the project: commands, links, parameters, names and words."""

import itertools
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
from botocore import xform_name
from moto import mock_aws
from samcli.commands.delete.command import cli as sam_delete
from samcli.commands.deploy.command import cli as sam_deploy
from samcli.yamlhelper import yaml_parse

import mark_dispatched
import personal_data
import redrive
from local.stack import REGION, ROOT
from tests.commands import NEEDS_AWS, PAGES, README, SHELL, blocks, commands, readme_commands
from tests.sources import TEMPLATE, table

README_MAX_LINES = 170
GLOSSARY = ROOT / "docs/glossary.md"
TYPED = [(page, info, command) for page in PAGES for info in (SHELL, NEEDS_AWS) for command in commands(page, info)]
# Each target of the Makefile that the pages name, and what runs it.
RUN_BY = {
    "test": ".ci/run",
    "unit": "its folders are a part of `make test`",
    "workflow": "its folder is a part of `make test`",
    "e2e": "its folder is a part of `make test`",
    "test-exhaustive": ".ci/run",
    "run": "tests/e2e/test_run.py",
    "demo": "tests/e2e/test_run.py",
    "redrive": "tests/e2e/test_healing.py",
    "mark-dispatched": "tests/unit/test_mark_dispatched.py",
    "personal-data": "tests/unit/test_personal_data.py",
    "build": "local/stack.py builds the same way",
    "deploy": "an operator: it needs AWS",
    "bench": "whoever wants its numbers; tests/unit/test_bench.py holds its arithmetic",
}
SAM = {"delete": sam_delete, "deploy": sam_deploy}
GLOBAL_AWS_OPTIONS = {"--query", "--output"}


def prose(page: Path) -> str:
    """Return a page's text without its blocks of commands and data, its code and its links' targets."""
    text = re.sub(r"^ *```\w.*\n(?:.*\n)*? *```$", "", page.read_text(), flags=re.MULTILINE)
    return re.sub(r"`[^`\n]+`", "", re.sub(r"\]\([^)]*\)", "]", text))


def code(page: Path) -> list[str]:
    """Return what a page sets in code, outside of blocks."""
    text = re.sub(r"^ *```.*\n(?:.*\n)*? *```$", "", page.read_text(), flags=re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", text)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """Return the targets of a page's links within the project."""
    return [target for target in re.findall(r"\]\(([^)]+)\)", page.read_text()) if not target.startswith("https://")]


def table_rows(text: str) -> list[list[str]]:
    """Return the cells of the tables in a text, without the rule under each header."""
    lines = re.findall(r"^\| (.*)\|$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def strings(value: Any) -> set[str]:
    """Return all strings in a document, its members' names included."""
    if isinstance(value, dict):
        return set().union(*map(strings, value.keys()), *map(strings, value.values()))
    if isinstance(value, list):
        return set().union(*map(strings, value))
    return {value} if isinstance(value, str) else set()


def dry_run(command: str) -> str:
    """Return what a `make` command would run."""
    make, *words = shlex.split(command)
    assert make == "make"
    run = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_readme_is_for_the_first_hour() -> None:
    assert len(README.read_text().splitlines()) <= README_MAX_LINES


def test_the_first_screen_sends_a_callback_and_reads_its_outcome() -> None:
    screen = "\n".join(README.read_text().splitlines()[:40])
    assert all(command in screen for command in readme_commands()[:3])
    make, send, look = readme_commands()[:3]
    assert make == "make run"
    callback = json.loads(shlex.split(send)[shlex.split(send).index("-d") + 1])
    assert look.endswith(f"/_local/orders/{callback['orderId']}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_leads_to_a_file_and_to_a_heading_in_it(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_links_to_each_page() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(README)}
    assert {*PAGES[1:], ROOT / "openapi.yaml"} <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_block_of_commands_is_marked_as_one(page: Path) -> None:
    for block in blocks(page):
        assert block.info in {"", "json", SHELL, NEEDS_AWS}
        is_typed = re.search(r"^(make|curl|aws|jq|python|sam|\.venv/bin/\w+) ", block.text, re.MULTILINE)
        assert bool(is_typed) == block.info.startswith(SHELL), block.text


@pytest.mark.parametrize(("page", "info", "command"), TYPED, ids=[command for *_, command in TYPED])
def test_each_command_is_run_by_a_test_or_needs_aws(page: Path, info: str, command: str) -> None:
    program = shlex.split(command)[0]
    if info == SHELL:
        # tests/e2e/test_run.py runs the curl commands of the README.
        assert program == "make" or (program == "curl" and page == README)
    else:
        assert program in {"make", "aws", "jq", ".venv/bin/sam"}
        assert "--local" not in command


MAKE = sorted(
    {command for *_, command in TYPED if command.startswith("make ")}
    | {span for page in PAGES for span in code(page) if re.match(r"make [a-z]", span) and "…" not in span}
)


@pytest.mark.parametrize("command", MAKE)
def test_each_make_command_has_a_target_that_is_run_and_variables_it_knows(command: str) -> None:
    _, target, *settings = shlex.split(command)
    assert target in RUN_BY
    assert dry_run(command)
    makefile = (ROOT / "Makefile").read_text()
    for name, value in (setting.split("=", 1) for setting in settings):
        assert re.search(rf"\b{name}\b", makefile), name
        if name == "PARAMETERS":
            for parameter, mode in (word.split("=") for word in value.split()):
                assert mode in TEMPLATE["Parameters"][parameter]["AllowedValues"]


@pytest.mark.parametrize("command", [command for command in MAKE if command.startswith("make redrive ARGS=")])
def test_each_redrive_has_options_that_it_takes(command: str) -> None:
    options = redrive._options(shlex.split(dry_run(command).partition(" -m redrive ")[2]))
    assert options.request or options.order or options.since or options.digest


@pytest.mark.parametrize("command", [command for command in MAKE if command.startswith("make mark-dispatched ")])
def test_each_marking_has_options_that_it_takes(command: str) -> None:
    options = mark_dispatched._parser().parse_args(shlex.split(dry_run(command).partition(" -m mark_dispatched ")[2]))
    assert options.file or options.records


@pytest.mark.parametrize("command", [command for command in MAKE if command.startswith("make personal-data ")])
def test_each_export_and_erasure_has_options_that_it_takes(command: str) -> None:
    options = personal_data._parser().parse_args(shlex.split(dry_run(command).partition(" -m personal_data ")[2]))
    assert options.action


# The AWS CLI's commands, also those inside of another command's $( ) and those in a sentence.
AWS = [
    *(command for *_, command in TYPED if command.startswith("aws ")),
    *(inner for *_, command in TYPED for inner in re.findall(r"\$\((aws [^)]*)\)", command)),
    *(span for page in PAGES for span in code(page) if span.startswith("aws ")),
]


def operation_of(service: str, operation: str) -> Any:
    """Return botocore's model of an operation that the AWS CLI calls `aws service operation`."""
    model: Any = botocore.session.get_session().get_service_model(service)
    names = {xform_name(name, "-"): name for name in model.operation_names}
    return model.operation_model(names[operation])


def parse_aws(command: str) -> tuple[str, str, dict[str, Any]]:
    """Return the service, the operation and the parameters of an AWS CLI command.

    Raises KeyError for an option that the operation does not have.
    """
    _, service, operation, *words = itertools.takewhile(lambda word: word not in {"|", ">"}, shlex.split(command))
    members = operation_of(service, operation).input_shape.members
    options = {f"--{xform_name(name, '-')}": name for name in members}
    parameters: dict[str, Any] = {}
    while words:
        option = words.pop(0)
        if option in GLOBAL_AWS_OPTIONS:
            words.pop(0)
        elif option.startswith("--no-"):
            parameters[options[option.replace("--no-", "--")]] = False
        else:
            name, value = options[option], words.pop(0)
            kind = members[name].type_name
            parameters[name] = value if kind == "string" else [value] if kind == "list" else json.loads(value)
    return service, operation, parameters


@pytest.mark.parametrize("command", AWS)
def test_each_aws_command_has_the_parameters_that_its_operation_takes(command: str) -> None:
    service, operation, parameters = parse_aws(command)
    assert set(operation_of(service, operation).input_shape.required_members) <= set(parameters)


@pytest.mark.parametrize("command", [command for command in AWS if re.match("aws dynamodb (query|get-item) ", command)])
def test_each_dynamodb_command_finds_its_item_in_the_templates_tables(command: str) -> None:
    _, operation, parameters = parse_aws(command)
    item: dict[str, Any] = {
        "orderId": {"S": "482500007436"},
        "orderKey": {"S": "BankApp#482500007436"},
        "paymentId": {"S": "pay_bankapp_123"},
        "deliveryId": {"S": "2026-11-22T10:00:00.000Z#JKJaXmPLvHcESHA"},
        "requestId": {"S": "JKJaXmPLvHcESHA"},
        "functionName": {"S": "bankappcallback"},
        "occurredAt": {"S": "2026-11-22T10:00:00.000Z"},
        "error": {"S": "InvalidCallback"},
    }
    with mock_aws():
        client = boto3.client("dynamodb", REGION, aws_access_key_id="none", aws_secret_access_key="none")
        for name in ("WalletCallbackRecordTable", "PaymentLedgerTable", "CallbackErrorLogTable"):
            client.create_table(**table(name, "dev"))
        client.put_item(TableName=parameters["TableName"], Item=item)
        answer = (
            client.query(**parameters)["Items"] if operation == "query" else [client.get_item(**parameters)["Item"]]
        )
    assert [found["orderId"] for found in answer] == [item["orderId"]]


@pytest.mark.parametrize("command", [command for *_, command in TYPED if command.startswith(".venv/bin/sam ")])
def test_each_sam_command_has_options_that_it_takes(command: str) -> None:
    _, name, *words = shlex.split(command)
    known = {
        option for parameter in {"delete": sam_delete, "deploy": sam_deploy}[name].params for option in parameter.opts
    }
    assert {word for word in words if word.startswith("--")} <= known


def test_the_page_of_parameters_has_the_templates_with_their_defaults() -> None:
    groups = TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    sections = re.split(r"^## ", (ROOT / "docs/parameters.md").read_text(), flags=re.MULTILINE)[1:]
    assert [section.partition("\n")[0] for section in sections] == [group["Label"]["default"] for group in groups]
    for section, group in zip(sections, groups, strict=True):
        _, *rows = table_rows(section)
        assert [row[0].strip("`") for row in rows] == group["Parameters"]
        for name, default, _ in rows:
            value = TEMPLATE["Parameters"][name.strip("`")].get("Default")
            assert default == {None: "required", "": "empty"}.get(value, f"`{value}`"), name


def test_the_readme_has_the_callback_tasks_as_the_page_of_states_has_them() -> None:
    callback = (ROOT / "docs/states.md").read_text().partition("## The healing workflow")[0]
    tasks = [row for row in table_rows(callback) if re.fullmatch(r"\d+s", row[2])]
    assert [
        row for row in table_rows(README.read_text()) if re.fullmatch(r"\d+s", row[2:3][0] if row[2:] else "")
    ] == tasks
    assert len(tasks) == 14


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_name_of_a_resource_and_each_path_in_code_exists(page: Path) -> None:
    known = "\n".join(strings(TEMPLATE)).replace("${Branch}", "<Branch>")
    for span in code(page):
        if "<Branch>" in span:
            assert span in known
        if re.fullmatch(r"[\w.]+(/[\w.]+)*(/|\.(json|md|py|toml|yaml))", span):
            assert (ROOT / span).exists(), span


def test_the_pages_use_one_word_for_one_thing() -> None:
    avoided = [word for row in table_rows(GLOSSARY.read_text())[1:] for word in row[2].split(", ") if word]
    assert {"a person", "by itself", "mail", "run again", "worked off"} <= set(avoided)
    document = yaml_parse((ROOT / "openapi.yaml").read_text())
    texts = {page.name: prose(page) for page in PAGES if page != GLOSSARY}
    texts["openapi.yaml"] = "\n".join(strings(document))
    found = [
        (name, match[0])
        for name, text in texts.items()
        for word in avoided
        if (match := re.search(rf"(?<![\w-]){word.replace(' ', r'\s+')}(?![\w-])", text, re.IGNORECASE))
    ]
    assert found == []
