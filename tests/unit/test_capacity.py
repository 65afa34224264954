"""The numbers on the page about capacity follow from the shipped code."""

import json
import re
from itertools import pairwise
from math import ceil

import pytest

from callbacks import queues
from local.stack import ROOT
from tests.sources import STATES
from tests.unit.kit import Load, Task
from tests.unit.test_drain import default

PAGE = (ROOT / "docs/capacity.md").read_text()
WRITE_UNITS = 1000  # That a partition takes in a second.
PER_SECOND = 1000
CONTAINERS_PER_SECOND = 100  # That Lambda starts of a function: 1,000 in 10 seconds.
NEW_TABLE_WRITE_UNITS = 4000
# What every account has at first.
CONCURRENT_EXECUTIONS = 1000
API_REQUESTS = 10_000
RATES = (10, 100, 1000, 10_000)
# On the record table a paid callback is put and confirmed, in the ledger claimed and finished.
TABLE_WRITES = 2
STATE_BYTES = 256 * 1024
# List prices of us-east-1, in USD: a GB of logs, a million write units, a GB stored for a month.
LOG_PRICE, WRITE_PRICE, STORAGE_PRICE = 0.50, 0.625, 0.25
# Of a million state transitions of a Standard workflow.
TRANSITION_PRICE = 25
# A failure with an order id enters both, in a write unit each.
INDEXES = 2
HISTORY_EVENTS = 25_000
# A request id is API Gateway's, of some 16 characters, or the name of an execution.
EXECUTION_NAME_CHARACTERS = 80
# Entering, scheduling, starting, ending and leaving a state.
EVENTS_PER_TASK = 5


def cell(label: str, column: int = 1) -> str:
    """Return a cell of the row on the page that begins with a label."""
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| {label}")]
    return [text.strip(" *") for text in row.strip("|").split("|")][column]


def number(text: str) -> float:
    found = re.search(r"[\d,.]+", text)
    assert found
    return float(found[0].rstrip(".").replace(",", ""))


@pytest.fixture
def pace(load: Load) -> Task:
    return load("callbacks.pace", HEALING_CONCURRENCY=str(default("HealingConcurrency")))


def test_the_page_has_the_shipped_pace(pace: Task) -> None:
    assert number(cell("redrives at once")) == pace.FIRST_CONCURRENCY == pace.next_concurrency(0, [])
    assert f"up to `HealingConcurrency` ({pace.MAX_CONCURRENCY})" in cell("after a page of which at most 10 %")
    assert pace.next_concurrency(8, ["open"] * 10 + ["resolved"] * 90) == 16
    assert pace.next_concurrency(8, ["open"] * 11 + ["resolved"] * 89) == 8
    assert pace.next_concurrency(8, ["open"] * 26 + ["resolved"] * 74) == 4
    per_page = f"{pace.FAILURES_PER_PLACE} for each redrive at once, at most {pace.MAX_PAGE}"
    assert cell("failures per page") == per_page
    assert number(cell("of them the newest")) == 100 * pace.NEWEST_SHARE
    assert f"at most {pace.MAX_UNCONFIRMED} of them" in PAGE
    assert f"`UnconfirmedAttempts` ({default('UnconfirmedAttempts')})" in PAGE


def test_no_key_takes_more_writes_than_a_partition_can() -> None:
    for index, units in (("index `undispatched`", 2), ("index `unresolved`", 2)):
        assert number(cell(index, 1)) == queues.SHARDS
        each = PER_SECOND * units / queues.SHARDS
        assert number(cell(index, 2)) == each < WRITE_UNITS
    assert number(cell("alert table: a failure", 1)) == queues.SHARDS
    assert number(cell("alert table: a failure", 2)) == PER_SECOND / queues.SHARDS < WRITE_UNITS
    assert number(cell("alert table: the window", 2)) == CONTAINERS_PER_SECOND < WRITE_UNITS


def test_a_flood_costs_what_the_page_says(load: Load) -> None:
    per_day = default("ThrottleRate") * 24 * 60 * 60
    assert f"at 50 a second, {per_day / 1e6:.2f} million" in PAGE
    whole, cut = (number(cell("history of an execution", column)) * 1000 for column in (1, 2))
    kept = load("callbacks.error_log").MAX_REFUSAL_BYTES
    item = number(cell("item of the error log", 1)) * 1000
    assert number(cell("item of the error log", 2)) == kept // 1000
    for column, history, size in ((1, whole, item), (2, cut, kept)):
        gigabytes = per_day * history / 1e9
        assert cell("logs of a day", column) == f"{gigabytes:,.0f} GB, {gigabytes * LOG_PRICE:,.0f} USD"
        units = ceil(size / 1024) + INDEXES
        assert number(cell("write units for it", column)) == units
        assert cell("writes of a day", column) == f"{per_day * units / 1e6 * WRITE_PRICE:.0f} USD"
        stored = per_day * size / 1e9
        assert cell("storage of a day", column).startswith(f"{stored:.0f} GB, {stored * STORAGE_PRICE:.0f} USD a month")
    assert f"`RefusalRetentionDays` ({default('RefusalRetentionDays')})" in cell("storage of a day", 2)


def test_the_alarm_on_the_logs_rings_when_the_page_says() -> None:
    limit = default("LogBytesPerHour")
    assert f"by default {limit / 1e9:.0f} GB, {limit / 1e9 * LOG_PRICE:.2f} USD" in PAGE
    (paid,) = re.findall(r"each (\d+) kB", PAGE)
    callbacks = limit / 1000 / int(paid)
    assert f"{round(callbacks, -3):,.0f} paid callbacks" in PAGE
    assert f"{callbacks / 3600:.0f} a second for an hour" in PAGE
    refused = number(cell("history of an execution", 2)) * 1000
    assert f"takes {limit / refused / default('ThrottleRate') / 60:.0f} minutes" in PAGE


def test_request_ids_spread_evenly_over_the_shards() -> None:
    shards = [queues.shard_of("BankApp", f"JKJaXmPLvH{request:05}") for request in range(8000)]
    assert {shards.count(shard) for shard in queues.shards_of("BankApp")} <= set(range(900, 1100))


def test_the_outcomes_of_a_page_fit_into_a_state(pace: Task, load: Load) -> None:
    settle = load("settle_failure", HEALING_CONCURRENCY="100")
    text = '"' * settle.MAX_RESULT_CHARACTERS
    outcome = {
        "requestId": "r" * EXECUTION_NAME_CHARACTERS,
        "status": "left for the next run",
        "attempts": 20,
        "lastResult": text,
    }
    collected = [outcome["requestId"]] * 2 * queues.SHARDS * load("collect_undispatched").KEYS_PER_END
    # With those of the collected ones for which it has room.
    found = [{"requestId": outcome["requestId"]}] * pace.MAX_PAGE
    state = {"collected": collected, "found": {"failures": found}, "results": [outcome] * len(found)}
    kibibytes = len(json.dumps(state, ensure_ascii=False).encode()) / 1024
    assert kibibytes * 1024 < STATE_BYTES
    assert kibibytes <= number(cell("256 KiB per state | the outcomes", 2))


def test_the_history_of_the_longest_run_stays_below_its_limit() -> None:
    loop = ["CollectUndispatched", "FindFailures", "IsAnyRedriven?", "RedriveEach", "IsManual?", "TakeParked"]
    assert set(loop) <= set(STATES["healing"])
    pages = 30 * 60 / 3
    assert pages * len(loop) * EVENTS_PER_TASK <= number(cell("25,000 events", 2)) < HISTORY_EVENTS


def test_a_month_of_idle_healing_costs_what_the_page_of_parameters_says() -> None:
    idle = ["WhichRun?", "ReportSuppressed", "TakeParked", "CollectUndispatched", "FindFailures", "IsAnyRedriven?"]
    idle += ["Healed"]
    states = STATES["healing"]
    for name, following in pairwise(idle):
        state = states[name]
        assert following in {
            state.get("Next"),
            state.get("Default"),
            *(each["Next"] for each in state.get("Choices", [])),
        }
    assert states[idle[-1]]["Type"] == "Succeed"
    # Starting the execution is one more.
    transitions = len(idle) + 1
    runs = 30 * 24 * 60 / default("HealingMinutes")
    assert (
        f"{transitions} state transitions: in a month {transitions * runs:,.0f}, which cost "
        f"{transitions * runs * TRANSITION_PRICE / 1e6:.2f} USD"
    ) in (ROOT / "docs/parameters.md").read_text()


def rates(label: str) -> list[float]:
    """Return what the page says that each rate of RATES needs."""
    return [number(cell(label, column)) for column in range(1, len(RATES) + 1)]


def met_at(label: str) -> float:
    return number(cell(label, len(RATES) + 2))


def test_each_rate_needs_what_the_page_says() -> None:
    assert rates("Paid callbacks a second") == list(RATES)
    for label in ("the stage's throttle", "API Gateway: requests", "StartSyncExecution"):
        assert rates(label) == list(RATES)
    for label in ("DynamoDB, record table", "DynamoDB, ledger"):
        assert rates(label) == [TABLE_WRITES * rate for rate in RATES]
        assert met_at(label) * TABLE_WRITES == NEW_TABLE_WRITE_UNITS == number(cell(label, 5))
    shards = f"each of {queues.SHARDS} shards of `undispatched`"
    assert rates(shards) == [2 * rate / queues.SHARDS for rate in RATES]
    assert met_at(shards) * 2 / queues.SHARDS == WRITE_UNITS == number(cell(shards, 5))
    assert met_at("the stage's throttle") == number(cell("the stage's throttle", 5)) == default("ThrottleRate")
    assert met_at("API Gateway: requests") == API_REQUESTS


def test_each_rate_needs_functions_for_as_long_as_they_run() -> None:
    milliseconds = {name: int(ms) for name, ms in re.findall(r"`(\w+)` (\d+) ms", PAGE)}
    paid = ["ValidateCallback", "SaveCallbackRecord", "InvokeProcessPaid"]
    assert list(milliseconds) == paid
    for name in paid:
        assert rates(f"of them `{name}`") == [rate * milliseconds[name] / 1000 for rate in RATES]
    together = sum(milliseconds.values()) / 1000
    assert rates("Lambda: all functions") == [pytest.approx(rate * together) for rate in RATES]
    assert met_at("Lambda: all functions") * together == CONCURRENT_EXECUTIONS


def test_the_log_grows_by_10_kilobytes_for_each_callback() -> None:
    assert rates("log: GB a day") == [pytest.approx(rate * 10e3 * 86_400 / 1e9, abs=0.5) for rate in RATES]
