"""What a month costs with either design, from what was measured and the prices of bench/prices.toml."""

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.deployment import ALTERNATIVES, PRODUCTION, Deployment
from bench.log import billed_bytes, history_lines
from bench.paths import BASELINE, BASELINE_FUNCTION, OURS, SMALL, recorded
from local.stack import ROOT
from tests.sources import FUNCTIONS, TEMPLATE

PRICES = ROOT / "bench/prices.toml"
SECONDS_PER_MONTH = 30 * 24 * 3600
# On which a function has one full vCPU; with less memory its CPU takes longer.
VCPU_MB = 1769
GIBIBYTE = 1024**3
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
    emails: float = 0
    queue_requests: float = 0


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
    return sum(count * latency[_latency_of(kind)] for kind, count in calls.items())


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
        "SES": callbacks * usage.emails * price["email"],
        "SQS": callbacks * usage.queue_requests * price["queue_request"],
    }


def item_bytes(item: Mapping[str, Any]) -> int:
    """Return an item's size as DynamoDB counts it, numbers and booleans approximately."""
    return sum(len(name) + len(str(value).encode()) for name, value in item.items() if value is not None)


def units_on_the_page() -> tuple[float, float]:
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
    return {"volumes": volumes, "settings": settings}


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
    """Return what a paid callback of 190 bytes uses; without a deployment, with the one Lambda."""
    design = OURS if deployment else BASELINE
    latency = prices["latency_ms"]
    functions: dict[str, Any] = results["warm"]["paid"][design]["functions"]
    gb_seconds = duration = 0.0
    for name, warm in functions.items():
        memory = _memory_of(name) if design == OURS else prices["baseline"]["memory_mb"]
        cold = results["cold"]["functions"][name] if design == OURS else results["cold"]["baseline"]
        waits = call_time(warm["calls"], latency)
        warm_ms = cpu_time(warm["cpu_ms"], memory) + waits
        cold_ms = cpu_time(cold["init_cpu_ms"] + cold["first_call_cpu_ms"]["paid"], memory) + waits
        gb_seconds += _mean(cold_share, lambda_gb_seconds(cold_ms, memory), lambda_gb_seconds(warm_ms, memory))
        duration += _mean(cold_share, cold_ms + latency["sandbox"], warm_ms) + latency["function"]
    case = _case(results, "paid")
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
    duration += entered * latency["state"] + own_calls * latency["dynamodb_write"]
    record_units = math.ceil(item_bytes(recorded()["paid", SMALL]["record"]) / 1024)
    beside, reads = units_on_the_page()
    # The ledger's three; the other units are the record's, which lead to a payment that was never dispatched.
    once = 3
    return Usage(
        express_requests=1,
        express_gb_seconds=express_gb_seconds(duration),
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
    idle = results["warm"]["idle"][OURS]
    events = recorded()["idle", 0]["events"]
    transitions = sum(event["type"].endswith("StateEntered") for event in events) + 1
    functions = 0.0
    for name, warm in idle["functions"].items():
        memory = _memory_of(name)
        # Every five minutes it finds no warm function.
        milliseconds = cpu_time(results["cold"]["functions"][name]["init_cpu_ms"] + warm["cpu_ms"], memory)
        milliseconds += call_time(warm["calls"], latency)
        functions += price["lambda_request"] + lambda_gb_seconds(milliseconds, memory) * price["lambda_gb_second"]
    reads = sum(count for kind, count in idle["calls"].items() if _latency_of(kind) == "dynamodb_read")
    writes = sum(count for kind, count in idle["calls"].items() if _latency_of(kind) == "dynamodb_write")
    queues = sum(count for kind, count in idle["calls"].items() if _latency_of(kind) == "queue")
    each = (
        transitions * price["standard_transition"]
        + functions
        + reads * 0.5 * price["read_unit"]
        + writes * price["write_unit"]
        + queues * price["queue_request"]
        + billed_bytes(history_lines(events, deployment.has_data, level=deployment.level)) / GIBIBYTE * price["log_gb"]
        + price["xray_trace"] * deployment.is_traced
    )
    # The other metrics of our own cost only in hours in which something fails.
    return {
        "alarms": deployment.alarms * price["alarm_month"],
        "healing, idle": runs * each + price["metric_month"],
    }


def _case(results: Mapping[str, Any], path: str) -> dict[str, Any]:
    (case,) = [case for case in results["log"]["cases"] if (case["path"], case["size"]) == (path, SMALL)]
    found: dict[str, Any] = case
    return found


def _memory_of(function: str) -> float:
    default = TEMPLATE["Globals"]["Function"]["MemorySize"]
    return float(FUNCTIONS[function].get("MemorySize", default)) if function != BASELINE_FUNCTION else float(default)


def _mean(share: float, cold: float, warm: float) -> float:
    return share * cold + (1 - share) * warm


def _latency_of(kind: str) -> str:
    service, _, operation = kind.partition(" ")
    if service == "dynamodb":
        return "dynamodb_write" if operation in WRITES else "dynamodb_read"
    return {"lambda": "lambda_invoke", "ses": "email", "sqs": "queue"}[service]
