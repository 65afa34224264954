"""The longest path of each execution, retries included, fits into the time that it has."""

from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import cache
from itertools import combinations, count, islice
from math import ceil
from typing import Any

import pytest

from callbacks.queues import SHARDS
from callbacks.selection import MAX_FAILURES
from tests.sources import CHECKS, COLD_START_SECONDS, FUNCTIONS, TEMPLATE, all_states, timeout_of
from tests.workflow import engine
from tests.workflow.account import Workflow

API_GATEWAY_SECONDS = 29
EXPRESS_SECONDS = 300
TRANSITIONS_SECONDS = 1
THROTTLED = "Lambda.TooManyRequestsException"
# What the template puts there instead, if there is no time to retry.
NEVER_RAISED = "NoTimeForRetries"

Machine = dict[str, Any]
State = dict[str, Any]

# With all retries.
CALLBACK, HEALING = engine.CALLBACK.definition, engine.HEALING.definition
STATES: dict[str, dict[str, State]] = {"callback": all_states(CALLBACK), "healing": all_states(HEALING)}
CALLBACK_FUNCTIONS = [name for name in FUNCTIONS if name in STATES["callback"]]
COMBINATIONS = [checks for number in range(len(CHECKS) + 1) for checks in combinations(CHECKS, number)]


def longest_seconds(machine: Machine, rounds: int = 1) -> float:
    """Return the seconds of the slowest path through a state machine or branch: every attempt times out.

    A Map takes `rounds` times as long as one of its items.
    Raises ValueError if there is no upper bound: for a task without TimeoutSeconds, a loop, a state of another type.
    """
    states: dict[str, State] = machine["States"]
    path: list[str] = []

    @cache
    def from_state(name: str) -> float:
        if name in path:
            raise ValueError(f"{name} is in a loop")
        path.append(name)
        longest = _state_seconds(name, states[name], rounds) + max(map(from_state, _following(states[name])), default=0)
        path.pop()
        return longest

    return from_state(machine["StartAt"])


def _state_seconds(name: str, state: State, rounds: int) -> float:
    match state:
        case {"Type": "Task", "TimeoutSeconds": timeout}:
            return _with_retries(state, float(timeout))
        case {"Type": "Parallel", "Branches": branches}:
            return _with_retries(state, max(map(longest_seconds, branches)))
        case {"Type": "Map", "ItemProcessor": processor, "MaxConcurrencyPath": _}:
            return rounds * longest_seconds(processor)
        case {"Type": "Wait", "Seconds": seconds}:
            return float(seconds)
        case {"Type": "Pass" | "Choice" | "Succeed" | "Fail"}:
            return 0
    raise ValueError(f"{name} has no upper bound")


def _with_retries(state: State, attempt_seconds: float) -> float:
    used = [retrier for retrier in state.get("Retry", []) if retrier.get("ErrorEquals") != [NEVER_RAISED]]
    waits = [wait for retrier in used for wait in _waits(retrier)]
    slow = [wait for retrier in used if not _is_of_throttle(retrier) for wait in _waits(retrier)]
    return attempt_seconds * (1 + len(slow)) + sum(waits)


def _is_of_throttle(retrier: State) -> bool:
    """Return whether a retrier is only for attempts that take no time."""
    return retrier.get("ErrorEquals") == [THROTTLED]


def _waits(retrier: State) -> list[float]:
    """Return the seconds before each retry; jitter only shortens them. The defaults are those of ASL."""
    first, rate = retrier.get("IntervalSeconds", 1), retrier.get("BackoffRate", 2)
    delays = (min(first * rate**attempt, retrier.get("MaxDelaySeconds", float("inf"))) for attempt in count())
    return list(islice(delays, retrier.get("MaxAttempts", 3)))


def _following(state: State) -> set[str]:
    ways = [state, *state.get("Choices", []), *state.get("Catch", [])]
    return {way[key] for way in ways for key in ("Next", "Default") if key in way}


def task(timeout: int = 2, **fields: Any) -> State:
    return {"Type": "Task", "TimeoutSeconds": timeout, **fields}


def machine(**states: State) -> Machine:
    return {"StartAt": next(iter(states)), "States": states}


END = {"Type": "Succeed"}
RETRY = {"ErrorEquals": ["Busy"], "IntervalSeconds": 1, "MaxAttempts": 2, "BackoffRate": 1}
RETRY_IF_THROTTLED = RETRY | {"ErrorEquals": [THROTTLED], "MaxAttempts": 1}


@pytest.mark.parametrize(
    ("example", "seconds"),
    [
        (machine(A={"Type": "Pass", "End": True}), 0),
        (machine(A=task(2, Next="B"), B=task(3, End=True)), 5),
        (machine(A={"Type": "Wait", "Seconds": 7, "End": True}), 7),
        # Each attempt times out: 3 attempts of 2 s, 2 waits of 1 s.
        (machine(A=task(2, Retry=[RETRY], End=True)), 8),
        # Waits of 1, 2, 4 and 8 s.
        (machine(A=task(1, Retry=[{"MaxAttempts": 4, "IntervalSeconds": 1, "BackoffRate": 2}], End=True)), 20),
        # Waits of 1, 2, 3 and 3 s.
        (machine(A=task(1, Retry=[{"MaxAttempts": 4, "BackoffRate": 2, "MaxDelaySeconds": 3}], End=True)), 14),
        # ASL's defaults: three retries after 1, 2 and 4 s.
        (machine(A=task(1, Retry=[{"ErrorEquals": ["Busy"]}], End=True)), 11),
        # Full jitter may draw the whole delay.
        (machine(A=task(2, Retry=[{**RETRY, "JitterStrategy": "FULL"}], End=True)), 8),
        # Retriers add up: 4 retries.
        (machine(A=task(2, Retry=[RETRY, RETRY], End=True)), 14),
        (machine(A=task(2, Retry=[{**RETRY, "MaxAttempts": 0}], End=True)), 2),
        (machine(A=task(2, Retry=[{**RETRY, "ErrorEquals": [NEVER_RAISED]}], End=True)), 2),
        # A throttled attempt takes no time.
        (machine(A=task(2, Retry=[RETRY_IF_THROTTLED], End=True)), 3),
        # A task may fail at its timeout, and then take the longer way.
        (machine(A=task(2, Next="B", Catch=[{"Next": "C"}]), B=END, C=task(5, End=True)), 7),
        (
            machine(A={"Type": "Choice", "Choices": [{"Next": "B"}], "Default": "C"}, B=task(9, End=True), C=END),
            9,
        ),
        (
            machine(A={"Type": "Choice", "Choices": [{"Next": "B"}], "Default": "C"}, B=END, C=task(9, End=True)),
            9,
        ),
        # All items of a Map have one place each: one round.
        (
            machine(
                A={
                    "Type": "Map",
                    "MaxConcurrencyPath": "$.n",
                    "ItemProcessor": machine(B=task(4, End=True)),
                    "End": True,
                }
            ),
            4,
        ),
        # Branches run in parallel; the slowest one counts.
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
def test_the_longest_path_of_an_example_is_computed(example: Machine, seconds: float) -> None:
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
def test_a_machine_without_an_upper_bound_is_rejected(example: Machine) -> None:
    with pytest.raises(ValueError, match=r"is in a loop|has no upper bound"):
        longest_seconds(example)


def with_checks(checks: Iterable[str]) -> Machine:
    """Return the callback workflow with these checks on; no path leads through the others."""
    modes = {parameter: "enforce" if check in checks else "off" for check, parameter in CHECKS.items()}
    callback = engine.machine("callback", **modes).definition
    for check in CHECKS.keys() - set(checks):
        callback["States"][check] = {"Type": "Pass", "Next": callback["States"][check]["Next"]}
    return callback


def is_retried(state: State) -> bool:
    """Return whether a throttled function is retried."""
    return any(THROTTLED in retrier["ErrorEquals"] for retrier in state.get("Retry", []))


@pytest.mark.parametrize("checks", COMBINATIONS, ids="+".join)
def test_the_slowest_callback_ends_before_api_gateway_gives_up(checks: tuple[str, ...]) -> None:
    assert longest_seconds(with_checks(checks)) + TRANSITIONS_SECONDS < API_GATEWAY_SECONDS


def is_reached_with_another_retry(name: str, checks: tuple[str, ...]) -> bool:
    """Return whether the slowest path reaches API Gateway's limit if a throttled function is retried as well."""
    callback = with_checks(checks)
    all_states(callback)[name]["Retry"] = [RETRY_IF_THROTTLED]
    return longest_seconds(callback) + TRANSITIONS_SECONDS >= API_GATEWAY_SECONDS


@pytest.mark.parametrize("name", CALLBACK_FUNCTIONS)
def test_a_throttled_function_is_retried_unless_that_takes_too_long(name: str) -> None:
    running = [checks for checks in COMBINATIONS if name not in CHECKS or name in checks]
    unretried = [checks for checks in running if not is_retried(all_states(with_checks(checks))[name])]
    takes_too_long = [is_reached_with_another_retry(name, checks) for checks in unretried]
    # A function is retried never, always, or unless certain checks are on.
    assert any(takes_too_long) if unretried == running else all(takes_too_long)


# The loop is cut: one page.
ONE_PAGE = HEALING | {
    "States": HEALING["States"] | {"IsManual?": {"Type": "Choice", "Choices": [], "Default": "Healed"}}
}


def test_the_slowest_run_of_healing_ends_before_its_timeout(workflow: Workflow) -> None:
    pace = workflow.functions.module_global("FindFailures", "pace")
    at_once = range(1, TEMPLATE["Parameters"]["HealingConcurrency"]["MaxValue"] + 1)
    rounds = max(ceil(pace.page_size(number) / number) for number in at_once)
    run_seconds = 60 * TEMPLATE["Parameters"]["HealingMinutes"]["MaxValue"]
    # A page may start at the end of the run; after it, one more search finds that the run is over.
    last_page, last_search = longest_seconds(ONE_PAGE, rounds), longest_seconds(ONE_PAGE, rounds=0)
    assert run_seconds + last_page + last_search < HEALING["TimeoutSeconds"]


def test_the_slowest_page_of_an_operator_ends_before_its_timeout(workflow: Workflow) -> None:
    def setting(task: str, name: str) -> Any:
        return workflow.functions.module_global(task, name)

    collected = 2 * setting("CollectUndispatched", "KEYS_PER_END") * SHARDS
    at_once = setting("FindFailures", "pace").next_concurrency(0, [])
    assert longest_seconds(ONE_PAGE, ceil((MAX_FAILURES + collected) / at_once)) < HEALING["TimeoutSeconds"]


def test_a_redrive_has_as_much_time_as_a_callback_can_take() -> None:
    run = STATES["healing"]["RunCallback"]
    # Its verdicts may switch all checks on, whatever the modes are now.
    assert longest_seconds(CALLBACK) + TRANSITIONS_SECONDS < run["TimeoutSeconds"]


def test_a_redrive_ends_before_its_claim_and_its_express_execution_do(workflow: Workflow) -> None:
    item = STATES["healing"]["RedriveEach"]["ItemProcessor"]
    assert item["ProcessorConfig"] == {"Mode": "DISTRIBUTED", "ExecutionType": "EXPRESS"}
    claim: timedelta = workflow.functions.module_global("ClaimFailure", "CLAIM_TIME")
    assert longest_seconds(item) + TRANSITIONS_SECONDS < min(claim.total_seconds(), EXPRESS_SECONDS)


def offenders(is_wrong: Callable[[str, str, State], bool]) -> list[str]:
    """Return the states that break a rule."""
    return [
        f"{machine}: {name}"
        for machine, states in STATES.items()
        for name, state in states.items()
        if is_wrong(machine, name, state)
    ]


def retriers(state: State) -> list[State]:
    found: list[State] = state.get("Retry", [])
    return found


def is_task(state: State) -> bool:
    return str(state["Type"]) == "Task"


def test_every_task_has_a_timeout() -> None:
    assert not offenders(lambda _, __, state: is_task(state) and not state.get("TimeoutSeconds", 0) > 0)


def test_every_task_catches_every_error() -> None:
    def lets_one_pass(machine: str, name: str, state: State) -> bool:
        # A selection that is wrong or cannot be read, or a digest that cannot be sent, ends the healing execution.
        if not is_task(state) or (machine, name) in {("healing", "FindFailures"), ("healing", "SendDigest")}:
            return False
        return not state.get("Catch") or state["Catch"][-1]["ErrorEquals"] != ["States.ALL"]

    assert not offenders(lets_one_pass)


def test_every_retry_names_its_errors_its_number_and_its_reason() -> None:
    def is_vague(_: str, name: str, state: State) -> bool:
        # Which names Step Functions gives to the errors of DynamoDB and SQS is not documented.
        general = {"States.ALL"} if name in {"ConfirmDispatch", "ParkDelivery"} else {"States.ALL", "States.TaskFailed"}
        return any(
            not retrier["ErrorEquals"]
            or general.intersection(retrier["ErrorEquals"])
            or "MaxAttempts" not in retrier
            or not retrier.get("Comment")
            for retrier in retriers(state)
        )

    assert not offenders(is_vague)


def test_every_retry_of_a_function_names_all_transient_errors_of_lambda() -> None:
    """Unless there is only time to retry a throttled function."""
    transient = {
        "States.Timeout",
        "Sandbox.Timedout",
        "Runtime.ExitError",
        "Lambda.Unknown",
        "Lambda.ClientExecutionTimeoutException",
        "Lambda.ServiceException",
        "Lambda.AWSLambdaException",
        "Lambda.SdkClientException",
        "Lambda.TooManyRequestsException",
    }
    assert not offenders(
        lambda _, name, state: (
            name in FUNCTIONS
            and not all(map(_is_of_throttle, retriers(state)))
            and not transient <= {error for retrier in retriers(state) for error in retrier["ErrorEquals"]}
        )
    )


def test_every_state_says_why_it_exists() -> None:
    assert not offenders(lambda _, __, state: not state.get("Comment"))


def test_a_function_fits_into_its_state_even_after_a_cold_start() -> None:
    assert not offenders(
        lambda _, name, state: (
            name in FUNCTIONS and is_task(state) and timeout_of(name) + COLD_START_SECONDS > state["TimeoutSeconds"]
        )
    )
