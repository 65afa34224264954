"""One name at every level: a state, its function, its file, its errors, its row in docs/states.md."""

import inspect
import re
import subprocess
import sys
from functools import cache
from typing import NamedTuple

import pytest

from callbacks import errors
from local.stack import ROOT
from tests.sources import DEFINITION_TEXTS, FUNCTIONS, MACHINES, RESOURCES, STATES

TASKS = {
    "VerifySignature": "verify_signature",
    "ValidateCallback": "validate_callback",
    "SaveCallbackRecord": "save_callback_record",
    "CrossCheckPayment": "cross_check_payment",
    "InquirePayment": "inquire_payment",
    "InvokeProcessPaid": "invoke_process_paid",
    "WriteErrorLog": "write_error_log",
    "ReportToSentry": "report_to_sentry",
    "SendErrorEmail": "send_error_email",
    "TakeParked": "take_parked",
    "CollectUndispatched": "collect_undispatched",
    "FindFailures": "find_failures",
    "ClaimFailure": "claim_failure",
    "SettleFailure": "settle_failure",
    "ReportSuppressed": "report_suppressed",
    "SendDigest": "send_digest",
}
# Not states: CloudFormation calls one during a deployment, and a queue the other.
OTHERS = {"CheckReadiness": "check_readiness", "ReopenPayment": "reopen_payment"}
FILES = TASKS | OTHERS
# Tasks without a function: two decide nothing, one must not need Lambda, the last would keep a function waiting.
INTEGRATIONS = {
    "ParkDelivery": "arn:aws:states:::sqs:sendMessage",
    "ConfirmDispatch": "arn:aws:states:::dynamodb:updateItem",
    "ReportConflictApart": "arn:aws:states:::aws-sdk:sfn:startExecution",
    "RunCallback": "arn:aws:states:::aws-sdk:sfn:startSyncExecution",
}
# States that start a report without waiting for it.
STARTED = {"WarnSentry": "ReportToSentry", "WarnByEmail": "SendErrorEmail"}
# Answered and redriven like any other failure: the machines do not name them.
UNNAMED_ERRORS = {
    "OperatorDecides",
    "Refusal",
    "DispatchUncertain",
    "DispatchUndecided",
    "OrderPaidTwice",
    "Unconfirmed",
    "PaymentNotConfirmed",
    "InvalidSelection",
    "ConfigurationError",
}
ALL_STATES = [(name, state) for states in STATES.values() for name, state in states.items()]

# What takes long to import. None needs boto3.
HEAVY_MODULES = {"boto3", "aws_lambda_powertools", "botocore", "pynamodb", "sentry_sdk", "urllib3"}
AWS = {"botocore", "urllib3"}
TABLES = AWS | {"pynamodb"}
# It imports botocore, too, but makes no client.
LOGGED = {"aws_lambda_powertools"}
NEEDED_MODULES: dict[str, set[str]] = {
    "verify_signature": LOGGED | AWS,
    "cross_check_payment": LOGGED | AWS,
    "inquire_payment": LOGGED | AWS,
    "validate_callback": set(),
    "save_callback_record": LOGGED | TABLES,
    "invoke_process_paid": LOGGED | TABLES,
    "write_error_log": TABLES,
    "report_to_sentry": LOGGED | AWS | {"sentry_sdk"},
    "send_error_email": LOGGED | TABLES,
    "take_parked": LOGGED | TABLES,
    "collect_undispatched": LOGGED | TABLES,
    "find_failures": LOGGED | TABLES,
    "claim_failure": TABLES,
    "settle_failure": LOGGED | TABLES,
    "reopen_payment": LOGGED | TABLES,
    "report_suppressed": LOGGED | TABLES | {"sentry_sdk"},
    "send_digest": TABLES,
    "check_readiness": LOGGED | AWS,
}


def test_each_task_state_has_a_function_and_a_file_of_its_name() -> None:
    tasks = [(name, state) for name, state in ALL_STATES if state["Type"] == "Task" and name not in INTEGRATIONS]
    assert {STARTED.get(name, name) for name, _ in tasks} == set(TASKS)
    assert set(FILES) == set(FUNCTIONS)
    for name, state in tasks:
        assert state["Parameters"]["FunctionName"] == f"${{{STARTED.get(name, name)}Arn}}"
        assert state["Parameters"].get("InvocationType") == ("Event" if name in STARTED else None)
    for name, function in FUNCTIONS.items():
        assert function["Handler"] == f"{FILES[name]}.handler"
        assert function["FunctionName"] == {"Fn::Sub": f"payment3-{name}-${{Branch}}"}
    files = {file.stem for file in (ROOT / "functions").glob("*.py")}
    assert files == set(FILES.values())


def test_the_tasks_without_a_function_are_these() -> None:
    others = {
        name: state["Resource"] for name, state in ALL_STATES if not state.get("Resource", ":lambda:").count(":lambda:")
    }
    assert others == INTEGRATIONS


def test_each_task_has_a_test_file_of_its_name() -> None:
    assert {f"test_{module}" for module in FILES.values()} <= {file.stem for file in (ROOT / "tests/unit").glob("*.py")}


def test_the_machines_name_only_our_error_classes_and_those_of_aws() -> None:
    ours = {name for name, _ in inspect.getmembers(errors, inspect.isclass)}
    named = {
        error
        for _, state in ALL_STATES
        for policy in state.get("Retry", []) + state.get("Catch", [])
        for error in policy["ErrorEquals"]
    }
    named |= set(re.findall(r"""\.Error', 'StringEquals': '(\w+)'""", str(ALL_STATES)))
    # Nothing raises what stands there if there is no time to retry.
    substituted = RESOURCES["BankAppCallback"]["Properties"]["DefinitionSubstitutions"]["RetriedEarly"]
    assert substituted == {"Fn::If": ["HasTimeForRetries", "Lambda.TooManyRequestsException", "NoTimeForRetries"]}
    named.remove("${RetriedEarly}")
    assert "NoTimeForRetries" not in ours
    assert {error for error in named if "." not in error} == ours - UNNAMED_ERRORS
    assert all(error.startswith(("States.", "Lambda.", "Sandbox.", "Runtime.")) for error in named if "." in error)


def test_each_definition_is_a_machine_of_the_template() -> None:
    assert {file.name for file in (ROOT / "statemachine").iterdir()} == {f"{name}.asl.json" for name in MACHINES}
    for name, logical_id in MACHINES.items():
        assert RESOURCES[logical_id]["Properties"]["DefinitionUri"] == f"statemachine/{name}.asl.json"


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machine_and_the_template_agree_on_the_substitutions(machine: str) -> None:
    given = RESOURCES[MACHINES[machine]]["Properties"]["DefinitionSubstitutions"]
    assert set(re.findall(r"\$\{(\w+)}", DEFINITION_TEXTS[machine])) == set(given)
    for name in TASKS:
        if f"{name}Arn" in given:
            assert given[f"{name}Arn"] == {"Fn::GetAtt": [name, "Arn"]}


PROBE = """
import importlib, sys
from callbacks import config
names = set()
for reader in ("required", "optional"):
    read = getattr(config, reader)
    setattr(config, reader, lambda name, read=read: (names.add(name), read(name))[1])
importlib.import_module(sys.argv[1])
print(*names)
print(*sys.modules)
"""
# Compiling, which is most of an import, in seconds of CPU: 0.2 on an idle core like those of the task's functions.
YARDSTICK = """
import time
lines = (f"def f{i}(a, b={i}):\\n    return [x for x in range(a) if x % {i + 1}] + [b]" for i in range(1500))
text = "\\n".join(lines)
for _ in range(3):
    compile(text, "text", "exec")
print(time.process_time())
"""
IDLE_SECONDS = 0.2
# Every variable that any task reads; numbers, so that each can be parsed as one.
ANY_ENVIRONMENT = {
    variable: "35"
    for function in FUNCTIONS.values()
    for variable in function.get("Environment", {}).get("Variables", {})
    if variable != "SENTRY_DSN"
}
# A client looks for these when it is made; without them it asks the machine's own account.
ACCOUNT = {"AWS_DEFAULT_REGION": "ap-southeast-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
# The local stack shortens a deployment's pauses by it; on AWS it is not set.
LOCAL_ONLY = {"check_readiness": {"READINESS_PAUSE_SECONDS"}}


class Import(NamedTuple):
    """What the import of a task reads from the environment, and which modules it loads."""

    variables: set[str]
    modules: set[str]


@cache
def import_of(module: str) -> Import:
    """Import a task in a new process, like a cold start."""
    environment = {**ANY_ENVIRONMENT, **ACCOUNT, "PYTHONPATH": str(ROOT / "functions")}
    command = [sys.executable, "-c", PROBE, module]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    variables, modules = run.stdout.splitlines()
    return Import(set(variables.split()), set(modules.split()))


@pytest.mark.parametrize("name", FILES)
def test_a_function_gets_the_environment_it_reads_and_no_more(name: str) -> None:
    given = set(FUNCTIONS[name].get("Environment", {}).get("Variables", {}))
    assert import_of(FILES[name]).variables == given | LOCAL_ONLY.get(FILES[name], set())


@pytest.mark.parametrize("module", NEEDED_MODULES)
def test_a_task_imports_no_more_than_it_needs(module: str) -> None:
    loaded = import_of(module).modules
    assert HEAVY_MODULES & loaded == NEEDED_MODULES[module]
    assert not (set(FILES.values()) - {module}) & loaded, "a task imports another task"


def slowness() -> float:
    """Return how many times slower than on an idle core Python runs now."""
    run = subprocess.run([sys.executable, "-c", YARDSTICK], capture_output=True, text=True, check=True)
    return float(run.stdout) / IDLE_SECONDS


def test_the_tables_of_states_are_those_of_the_machines() -> None:
    page = (ROOT / "docs/states.md").read_text()
    rows = re.findall(r"^\| `(.+?)` \|.*?\| (\S+) \| (\S+) \|.*\|$", page, re.MULTILINE)
    assert sorted(rows) == sorted(
        (name, f"{state['TimeoutSeconds']}s", str(sum(policy["MaxAttempts"] for policy in state.get("Retry", []))))
        if state["Type"] == "Task"
        else (name, "-", "-")
        for name, state in ALL_STATES
    )
