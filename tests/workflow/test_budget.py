"""The longest that an execution can take, retries included, has to fit into the time that there is for it."""

import re
from functools import cache
from itertools import count, islice
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from callbacks.selection import MAX_FAILURES
from local.stack import ROOT
from tests.sources import DEFINITIONS, FUNCTIONS, STATES, TEMPLATE

CLAIM_FAILURE = ROOT / "functions/claim_failure.py"
FIND_FAILURES = ROOT / "functions/find_failures.py"
API_GATEWAY_SECONDS = 29
TRANSITIONS_SECONDS = 1

Machine = dict[str, Any]
State = dict[str, Any]


def longest_seconds(machine: Machine) -> float:
    """Return the seconds of the slowest path through a state machine or a branch: every attempt runs into its timeout.

    Raises ValueError for what has no upper bound: a task without TimeoutSeconds, a loop, a state of another type.
    """
    states: dict[str, State] = machine["States"]
    path: list[str] = []

    @cache
    def from_state(name: str) -> float:
        if name in path:
            raise ValueError(f"{name} is in a loop")
        path.append(name)
        longest = _state_seconds(name, states[name]) + max(map(from_state, _following(states[name])), default=0)
        path.pop()
        return longest

    return from_state(machine["StartAt"])


def _state_seconds(name: str, state: State) -> float:
    match state:
        case {"Type": "Task", "TimeoutSeconds": timeout}:
            return _with_retries(state, timeout)
        case {"Type": "Parallel", "Branches": branches}:
            return _with_retries(state, max(map(longest_seconds, branches)))
        case {"Type": "Map", "ItemProcessor": processor, "MaxConcurrency": at_once}:
            return ceil(MAX_FAILURES / at_once) * longest_seconds(processor)
        case {"Type": "Wait", "Seconds": seconds}:
            return float(seconds)
        case {"Type": "Pass" | "Choice" | "Succeed" | "Fail"}:
            return 0
    raise ValueError(f"{name} has no upper bound")


def _with_retries(state: State, attempt_seconds: float) -> float:
    waits = [wait for retrier in state.get("Retry", []) for wait in _waits(retrier)]
    return attempt_seconds * (1 + len(waits)) + sum(waits)


def _waits(retrier: State) -> list[float]:
    """Return the seconds before each retry; jitter only shortens them. The defaults are the language's."""
    first, rate = retrier.get("IntervalSeconds", 1), retrier.get("BackoffRate", 2)
    delays = (min(first * rate**attempt, retrier.get("MaxDelaySeconds", float("inf"))) for attempt in count())
    return list(islice(delays, retrier.get("MaxAttempts", 3)))


def _following(state: State) -> set[str]:
    ways = [state, *state.get("Choices", []), *state.get("Catch", [])]
    return {way[key] for way in ways for key in ("Next", "Default") if key in way}


NAMES = [(machine, name) for machine, states in STATES.items() for name in states]
TASKS = [(machine, name) for machine, name in NAMES if STATES[machine][name]["Type"] == "Task"]


def task(timeout: int = 2, **fields: Any) -> State:
    return {"Type": "Task", "TimeoutSeconds": timeout, **fields}


def machine(**states: State) -> Machine:
    return {"StartAt": next(iter(states)), "States": states}


END = {"Type": "Succeed"}
RETRY = {"ErrorEquals": ["Busy"], "IntervalSeconds": 1, "MaxAttempts": 2, "BackoffRate": 1}


@pytest.mark.parametrize(
    ("example", "seconds"),
    [
        (machine(A={"Type": "Pass", "End": True}), 0),
        (machine(A=task(2, Next="B"), B=task(3, End=True)), 5),
        (machine(A={"Type": "Wait", "Seconds": 7, "End": True}), 7),
        # Each attempt runs into its timeout: 3 attempts of 2 s, 2 waits of 1 s.
        (machine(A=task(2, Retry=[RETRY], End=True)), 8),
        # Waits of 1, 2, 4 and 8 s.
        (machine(A=task(1, Retry=[{"MaxAttempts": 4, "IntervalSeconds": 1, "BackoffRate": 2}], End=True)), 20),
        # Waits of 1, 2, 3 and 3 s.
        (machine(A=task(1, Retry=[{"MaxAttempts": 4, "BackoffRate": 2, "MaxDelaySeconds": 3}], End=True)), 14),
        # The language's defaults: three retries after 1, 2 and 4 s.
        (machine(A=task(1, Retry=[{"ErrorEquals": ["Busy"]}], End=True)), 11),
        # Full jitter may draw the whole delay.
        (machine(A=task(2, Retry=[{**RETRY, "JitterStrategy": "FULL"}], End=True)), 8),
        # Every retrier counts for itself: 4 retries.
        (machine(A=task(2, Retry=[RETRY, RETRY], End=True)), 14),
        (machine(A=task(2, Retry=[{**RETRY, "MaxAttempts": 0}], End=True)), 2),
        # A failure ends as late as a success does, and then goes the longer way.
        (machine(A=task(2, Next="B", Catch=[{"Next": "C"}]), B=END, C=task(5, End=True)), 7),
        (
            machine(A={"Type": "Choice", "Choices": [{"Next": "B"}], "Default": "C"}, B=task(9, End=True), C=END),
            9,
        ),
        (
            machine(A={"Type": "Choice", "Choices": [{"Next": "B"}], "Default": "C"}, B=END, C=task(9, End=True)),
            9,
        ),
        # Branches run at once, and the slowest is waited for.
        (
            machine(
                A={
                    "Type": "Parallel",
                    "Branches": [machine(B=task(2, Next="C"), C=task(2, End=True)), machine(D=task(3, End=True))],
                    "Next": "E",
                },
                E=task(1, End=True),
            ),
            5,
        ),
        (
            machine(A={"Type": "Parallel", "Branches": [machine(B=task(2, End=True))], "Retry": [RETRY], "End": True}),
            8,
        ),
    ],
)
def test_the_longest_path_of_a_known_machine_is_known(example: Machine, seconds: float) -> None:
    assert longest_seconds(example) == seconds


@pytest.mark.parametrize(
    "example",
    [
        machine(A={"Type": "Task", "End": True}),
        machine(A={"Type": "Wait", "SecondsPath": "$.seconds", "End": True}),
        machine(A=task(1, Next="B"), B=task(1, Next="A")),
        machine(A={"Type": "Map", "End": True}),
    ],
    ids=["task-without-timeout", "wait-for-an-unknown-time", "loop", "map"],
)
def test_a_machine_without_an_upper_bound_is_refused(example: Machine) -> None:
    with pytest.raises(ValueError, match=r"is in a loop|has no upper bound"):
        longest_seconds(example)


def constant(file: Path, pattern: str) -> int:
    """Return a number that a task sets; importing the task would need its environment."""
    found = re.search(f"^{pattern}$", file.read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def test_the_slowest_callback_ends_before_api_gateway_gives_up() -> None:
    assert longest_seconds(DEFINITIONS["callback"]) + TRANSITIONS_SECONDS < API_GATEWAY_SECONDS


def test_the_slowest_healing_ends_before_its_execution_is_cut_off() -> None:
    healing = DEFINITIONS["healing"]
    states = healing["States"]
    one_page = {**healing, "States": {**states, "HasMore?": {**states["HasMore?"], "Choices": []}}}
    max_pages = constant(FIND_FAILURES, r"MAX_PAGES = (\d+)")
    assert max_pages * longest_seconds(one_page) < healing["TimeoutSeconds"]


def test_running_a_callback_again_has_the_time_that_a_callback_takes() -> None:
    run = STATES["healing"]["RunCallback"]
    assert longest_seconds(DEFINITIONS["callback"]) + TRANSITIONS_SECONDS < run["TimeoutSeconds"]


def test_a_claim_on_a_failure_lasts_until_its_delivery_was_run_again() -> None:
    item = STATES["healing"]["RedriveEach"]["ItemProcessor"]
    assert longest_seconds(item) < constant(CLAIM_FAILURE, r"LEASE = timedelta\(minutes=(\d+)\)") * 60


@pytest.mark.parametrize(("machine", "name"), TASKS)
def test_every_task_has_a_timeout(machine: str, name: str) -> None:
    assert STATES[machine][name]["TimeoutSeconds"] > 0


# What is asked for wrongly, or cannot be read at all, ends the healing execution.
@pytest.mark.parametrize(("machine", "name"), [task for task in TASKS if task != ("healing", "FindFailures")])
def test_every_task_catches_everything(machine: str, name: str) -> None:
    assert STATES[machine][name]["Catch"][-1]["ErrorEquals"] == ["States.ALL"]


@pytest.mark.parametrize(("machine", "name"), [(m, n) for m, n in NAMES if "Retry" in STATES[m][n]])
def test_every_retry_names_its_errors_its_number_and_its_reason(machine: str, name: str) -> None:
    for retrier in STATES[machine][name]["Retry"]:
        assert retrier["ErrorEquals"]
        # What DynamoDB's errors are called by Step Functions is not documented.
        general = {"States.ALL"} if name == "ConfirmDispatch" else {"States.ALL", "States.TaskFailed"}
        assert not general.intersection(retrier["ErrorEquals"])
        assert "MaxAttempts" in retrier
        assert retrier["Comment"]


@pytest.mark.parametrize(("machine", "name"), NAMES)
def test_every_state_says_why_it_is_there(machine: str, name: str) -> None:
    assert STATES[machine][name]["Comment"]


@pytest.mark.parametrize(("machine", "name"), [(m, n) for m, n in TASKS if n in FUNCTIONS])
def test_no_handler_has_more_time_than_its_state(machine: str, name: str) -> None:
    timeout = FUNCTIONS[name].get("Timeout", TEMPLATE["Globals"]["Function"]["Timeout"])
    assert timeout <= STATES[machine][name]["TimeoutSeconds"]
