"""What a month costs with either design, from what was measured and the prices of bench/prices.toml.

Left out are free tiers, failures, duplicates, declined callbacks and storage. The one Lambda is billed as a zip with
bytecode on arm64, better than it was: it was a Docker image on x86.
"""

import math
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.deployment import ALTERNATIVES, PRODUCTION, Deployment
from bench.log import billed_bytes, history_lines
from bench.paths import BASELINE, CONSISTENT, IDLE, OURS, SMALL, case_of, recorded
from local.stack import ROOT
from tests.sources import FUNCTIONS, TEMPLATE, table

PRICES = ROOT / "bench/prices.toml"
SECONDS_PER_MONTH = 30 * 24 * 3600
# On which a function has one full vCPU; with less memory its CPU takes longer.
VCPU_MB = 1769
# What AWS bills as a GB.
GIBIBYTE = 1024**3
# What DynamoDB adds to each stored item.
ITEM_BYTES = 100
WRITES = {"PutItem", "UpdateItem", "DeleteItem"}


@dataclass(frozen=True)
class Usage:
    """What one callback uses; memory in GB-seconds, and `write_units` without those that dispatch exactly once."""

    express_requests: float = 0
    express_gb_seconds: float = 0
    lambda_requests: float = 0
    lambda_gb_seconds: float = 0
    write_units: float = 0
    once_write_units: float = 0
    read_units: float = 0
    log_bytes: float = 0


def read_prices() -> dict[str, Any]:
    return tomllib.loads(PRICES.read_text())


def express_gb_seconds(milliseconds: float) -> float:
    """Return what Step Functions bills for an Express execution: 64 MB, in steps of 100 ms."""
    return math.ceil(milliseconds / 100) / 10 * 64 / 1024


def lambda_gb_seconds(milliseconds: float, memory_mb: float) -> float:
    """Return what Lambda bills for a call: whole milliseconds."""
    return math.ceil(milliseconds) / 1000 * memory_mb / 1024


def cpu_time(cpu_ms: float, memory_mb: float) -> float:
    """Return how long a function's CPU takes on its share of a vCPU."""
    return cpu_ms * max(1, VCPU_MB / memory_mb)


def call_time(calls: Mapping[str, int], latency: Mapping[str, float]) -> float:
    """Return the milliseconds for which a function waits for AWS."""
    return sum(count * latency[sort] for sort, count in _by_latency(calls).items())


def traces(callbacks: float, sampling: Mapping[str, float]) -> float:
    """Return how many of a month's requests X-Ray records, if they arrive at random, independent of each other.

    It records the first request of each second, and a part of the others. Busy hours make it less: more share a second.
    """
    first_of_a_second = SECONDS_PER_MONTH * -math.expm1(-callbacks / SECONDS_PER_MONTH)
    return first_of_a_second + (callbacks - first_of_a_second) * sampling["rate"]


def month(callbacks: float, usage: Usage, is_traced: bool, prices: Mapping[str, Any]) -> dict[str, float]:
    """Return the dollars of a month by item."""
    price = prices["prices"]
    return {
        "API Gateway": callbacks * price["api_request"],
        "Step Functions": callbacks
        * (usage.express_requests * price["express_request"] + usage.express_gb_seconds * price["express_gb_second"]),
        "Lambda": callbacks
        * (usage.lambda_requests * price["lambda_request"] + usage.lambda_gb_seconds * price["lambda_gb_second"]),
        "DynamoDB": callbacks * (usage.write_units * price["write_unit"] + usage.read_units * price["read_unit"]),
        "exactly once (ledger)": callbacks * usage.once_write_units * price["write_unit"],
        "CloudWatch Logs": callbacks * usage.log_bytes / GIBIBYTE * price["log_gb"],
        "X-Ray": traces(callbacks, prices["xray"]) * price["xray_trace"] if is_traced else 0,
    }


def item_bytes(item: Mapping[str, Any]) -> int:
    """Return an item's size as DynamoDB counts it, numbers and booleans approximately."""
    return sum(len(name) + len(str(value).encode()) for name, value in item.items() if value is not None)


def stored_bytes() -> int:
    """Return what a paid callback of 190 bytes leaves in the tables: a record, a payment and its index entry."""
    run = recorded()["paid", SMALL]
    _, payment = items = run["items"]
    ledger = table("PaymentLedgerTable")
    keys = {key["AttributeName"] for each in [ledger, *ledger["GlobalSecondaryIndexes"]] for key in each["KeySchema"]}
    entry = {name: payment[name] for name in keys}
    return sum(item_bytes(each) + ITEM_BYTES for each in (*items, entry))


def units_in_guarantees() -> tuple[float, float]:
    """Return the write units besides the record's own write, and the read units, of a payment's first paid delivery."""
    page = (ROOT / "docs/guarantees.md").read_text()
    found = re.search(r"^\| paid, the first of its payment \| ([\d.]+): .* \| ([\d.]+): ", page, re.MULTILINE)
    assert found, "docs/guarantees.md does not say what a paid delivery costs"
    return float(found[1]), float(found[2])


def measure(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return each volume's dollars by item and design, and what a parameter changes, from `cold`, `warm` and `log`."""
    prices = read_prices()
    volumes = []
    for volume in prices["volumes"]:
        per_million = {
            OURS: per_million_paid(volume, results, prices, PRODUCTION),
            BASELINE: per_million_paid(volume, results, prices, None),
        }
        totals = {design: sum(items.values()) for design, items in per_million.items()}
        volumes.append(
            {**volume, "per_million": per_million, "total": totals, "ratio": totals[OURS] / totals[BASELINE]}
        )
    million = at_a_million(volumes)
    settings = {
        each.name: sum(per_million_paid(million, results, prices, each).values()) - million["total"][OURS]
        for each in ALTERNATIVES
    }
    stored = stored_bytes()
    kept = stored * 1e6 / GIBIBYTE * (prices["prices"]["storage_gb_month"] + prices["prices"]["backup_gb_month"])
    return {"volumes": volumes, "settings": settings, "storage": {"bytes": stored, "dollars": kept}}


def at_a_million(volumes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the volume at which the bill is judged."""
    (million,) = (volume for volume in volumes if volume["callbacks"] == 1_000_000)
    return million


def per_million_paid(
    volume: Mapping[str, Any], results: Mapping[str, Any], prices: Mapping[str, Any], deployment: Deployment | None
) -> dict[str, float]:
    """Return the dollars for a million paid callbacks by item; without a deployment, those of the one Lambda."""
    usage = paid_usage(deployment, volume["cold"], results, prices)
    items = month(volume["callbacks"], usage, bool(deployment and deployment.is_traced), prices)
    if deployment:
        items |= fixed_month(results, prices, deployment)
    return {name: dollars / volume["callbacks"] * 1e6 for name, dollars in items.items()}


def paid_usage(
    deployment: Deployment | None, cold_share: float, results: Mapping[str, Any], prices: Mapping[str, Any]
) -> Usage:
    """Return what a paid callback of 190 bytes uses; without a deployment, with the one Lambda.

    The functions of a callback are cold together.
    """
    design = OURS if deployment else BASELINE
    latency = prices["latency_ms"]
    functions: dict[str, Any] = results["warm"]["paid"][design]["functions"]
    gb_seconds = cold_duration = warm_duration = 0.0
    for name, warm in functions.items():
        memory = _memory_of(name) if design == OURS else prices["baseline"]["memory_mb"]
        cold = results["cold"]["functions"][name] if design == OURS else results["cold"]["baseline"]
        waits = call_time(warm["calls"], latency)
        warm_ms = cpu_time(warm["cpu_ms"], memory) + waits
        cold_ms = cpu_time(cold["init_cpu_ms"] + cold["first_call_cpu_ms"]["paid"], memory) + waits
        gb_seconds += _mean(cold_share, lambda_gb_seconds(cold_ms, memory), lambda_gb_seconds(warm_ms, memory))
        cold_duration += cold_ms + latency["sandbox"] + latency["function"]
        warm_duration += warm_ms + latency["function"]
    case = case_of(results, "paid", SMALL)
    if not deployment:
        return Usage(
            lambda_requests=1,
            lambda_gb_seconds=gb_seconds,
            write_units=1,
            log_bytes=case["baseline"],
        )
    events = recorded()["paid", SMALL]["events"]
    entered = sum(event["type"].endswith("StateEntered") for event in events)
    own_calls = sum(
        event["type"] == "TaskScheduled" and event["taskScheduledEventDetails"]["resourceType"] == "dynamodb"
        for event in events
    )
    own = entered * latency["state"] + own_calls * latency["dynamodb_write"]
    record, _ = recorded()["paid", SMALL]["items"]
    record_units = math.ceil(item_bytes(record) / 1024)
    beside, reads = units_in_guarantees()
    # The ledger's three; the other units are the record's, which lead to a payment that was never dispatched.
    once = 3
    return Usage(
        express_requests=1,
        # An execution is billed in steps, each for itself.
        express_gb_seconds=_mean(
            cold_share, express_gb_seconds(cold_duration + own), express_gb_seconds(warm_duration + own)
        ),
        lambda_requests=len(functions),
        lambda_gb_seconds=gb_seconds,
        write_units=record_units + (record_units - 1) + beside - once,
        once_write_units=once,
        read_units=reads,
        log_bytes=case["totals"][deployment.name],
    )


def fixed_month(results: Mapping[str, Any], prices: Mapping[str, Any], deployment: Deployment) -> dict[str, float]:
    """Return what runs whether callbacks arrive or not: alarms, and the healing that finds nothing."""
    price, latency = prices["prices"], prices["latency_ms"]
    runs = SECONDS_PER_MONTH / 60 / deployment.healing_minutes
    idle = results["warm"][IDLE][OURS]
    events = recorded()[IDLE, 0]["events"]
    transitions = sum(event["type"].endswith("StateEntered") for event in events) + 1
    functions = 0.0
    for name, warm in idle["functions"].items():
        memory = _memory_of(name)
        cold = results["cold"]["functions"][name]
        # Every five minutes it finds no warm function.
        milliseconds = cpu_time(cold["init_cpu_ms"] + cold["first_call_cpu_ms"][IDLE], memory)
        milliseconds += call_time(warm["calls"], latency)
        functions += price["lambda_request"] + lambda_gb_seconds(milliseconds, memory) * price["lambda_gb_second"]
    calls = _by_latency(idle["calls"])
    consistent = sum(count for kind, count in idle["calls"].items() if kind.endswith(CONSISTENT))
    each = (
        transitions * price["standard_transition"]
        + functions
        + (calls["dynamodb_read"] + consistent) / 2 * price["read_unit"]
        + calls["dynamodb_write"] * price["write_unit"]
        + calls["queue"] * price["queue_request"]
        + billed_bytes(history_lines(events, deployment.has_data, level=deployment.level)) / GIBIBYTE * price["log_gb"]
        + price["xray_trace"] * deployment.is_traced
    )
    # The other metrics of our own cost only in hours in which something fails.
    return {
        "alarms": deployment.alarms * price["alarm_month"],
        "healing, idle": runs * each + price["metric_month"],
    }


def _memory_of(function: str) -> float:
    return float(FUNCTIONS[function].get("MemorySize", TEMPLATE["Globals"]["Function"]["MemorySize"]))


def _mean(share: float, cold: float, warm: float) -> float:
    return share * cold + (1 - share) * warm


def _by_latency(calls: Mapping[str, int]) -> Counter[str]:
    """Return how many calls there are of each sort that `latency_ms` in bench/prices.toml names."""
    sorts = Counter[str]()
    for kind, count in calls.items():
        sorts[_latency_of(kind)] += count
    return sorts


def _latency_of(kind: str) -> str:
    service, _, operation = kind.removesuffix(CONSISTENT).partition(" ")
    if service == "dynamodb":
        return "dynamodb_write" if operation in WRITES else "dynamodb_read"
    return {"lambda": "lambda_invoke", "sqs": "queue"}[service]
