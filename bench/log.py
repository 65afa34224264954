"""The bytes that a path logs, as CloudWatch bills them: the history of the execution, and the functions' own lines."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bench.paths import BASELINE, FORGED, LARGE, MEDIUM, OURS, SMALL, recorded
from local.intrinsics import parameter_value, resolved
from tests.sources import RESOURCES, TEMPLATE

if TYPE_CHECKING:
    from bench.designs import Bench

# CloudWatch adds them to each event.
EVENT_BYTES = 26
CASES = [("paid", SMALL), ("paid", MEDIUM), ("paid", LARGE), ("duplicate", SMALL), ("declined", SMALL)]
CASES += [(path, size) for path in ("refused", "malformed") for size in (SMALL, MEDIUM, LARGE)]
CASES += [("refused", FORGED), ("failing", SMALL)]
# What Step Functions leaves out if the log has no execution data.
DATA = {"input", "inputDetails", "output", "outputDetails", "parameters", "cause"}
# How the types of events end that Step Functions logs at level ERROR.
ERRORS = ("Failed", "TimedOut", "Aborted", "FailStateEntered")
EXECUTION = "JKJaXmPLvHcESHA"
EXECUTION_ARN = f"arn:aws:states:ap-southeast-1:123456789012:express:payment3-bankapp-callback-dev:{EXECUTION}:"
EXECUTION_ARN += "8f7e6d5c-0000-4000-8000-000000000000"
REQUEST_ID = "8f7e6d5c-0000-4000-8000-000000000000"
# What Step Functions adds to the answer of a service that it calls itself; a function called by its ARN has none.
METADATA: dict[str, Any] = {
    "SdkHttpMetadata": {
        "AllHttpHeaders": {
            "X-Amz-Executed-Version": ["$LATEST"],
            "x-amzn-Remapped-Content-Length": ["0"],
            "Connection": ["keep-alive"],
            "x-amzn-RequestId": [REQUEST_ID],
            "Content-Length": ["190"],
            "Date": ["Wed, 25 Nov 2026 10:00:00 GMT"],
            "X-Amzn-Trace-Id": ["Root=1-67891233-abcdef012345678912345678;Parent=0123456789abcdef;Sampled=1"],
            "Content-Type": ["application/json"],
        },
        "HttpHeaders": {
            "Connection": "keep-alive",
            "Content-Length": "190",
            "Content-Type": "application/json",
            "Date": "Wed, 25 Nov 2026 10:00:00 GMT",
            "X-Amz-Executed-Version": "$LATEST",
            "x-amzn-Remapped-Content-Length": "0",
            "x-amzn-RequestId": REQUEST_ID,
            "X-Amzn-Trace-Id": "Root=1-67891233-abcdef012345678912345678;Parent=0123456789abcdef;Sampled=1",
        },
        "HttpStatusCode": 200,
    },
    "SdkResponseMetadata": {"RequestId": REQUEST_ID},
}
PLATFORM_LINES = [
    f"START RequestId: {REQUEST_ID} Version: $LATEST\n",
    f"END RequestId: {REQUEST_ID}\n",
    f"REPORT RequestId: {REQUEST_ID}\tDuration: 12.34 ms\tBilled Duration: 13 ms\tMemory Size: 1769 MB"
    "\tMax Memory Used: 91 MB\t\n",
]
XRAY_LINE = "XRAY TraceId: 1-67891233-abcdef012345678912345678\tSegmentId: 0123456789abcdef\tSampled: true\t\n"


def _platform_event(kind: str, record: Mapping[str, Any]) -> str:
    """Return a line of Lambda's with the log format JSON."""
    return json.dumps(
        {"time": "2026-11-25T10:00:00.000Z", "type": f"platform.{kind}", "record": {"requestId": REQUEST_ID, **record}}
    )


METRICS = {"durationMs": 12.345, "billedDurationMs": 13, "memorySizeMB": 1769, "maxMemoryUsedMB": 91}
START_EVENT = _platform_event("start", {"version": "$LATEST"})
REPORT_EVENT = _platform_event("report", {"metrics": METRICS, "status": "success"})
# Their level is WARN.
FAILURE_EVENTS = [
    _platform_event("runtimeDone", {"status": "error", "metrics": {"durationMs": 12.345, "producedBytes": 0}}),
    _platform_event("report", {"metrics": METRICS, "status": "error"}),
]


def billed_bytes(lines: Sequence[str]) -> int:
    """Return the bytes that CloudWatch bills for log events."""
    return sum(len(line.encode()) + EVENT_BYTES for line in lines)


def history_lines(
    events: Sequence[Mapping[str, Any]], has_data: bool, arn: str = EXECUTION_ARN, level: str = "ALL"
) -> list[str]:
    """Return an execution's history as Step Functions writes it to CloudWatch: a line per event of the level."""
    own_arn = _own_arn(events)
    lines = []
    for event in events:
        if level == "ERROR" and not event["type"].endswith(ERRORS):
            continue
        (details,) = [value for name, value in event.items() if name.endswith("EventDetails")] or [{}]
        line = {
            "id": str(event["id"]),
            "type": event["type"],
            "details": _details(details, has_data),
            "previous_event_id": str(event["previousEventId"]),
            "event_timestamp": str(_milliseconds(event["timestamp"])),
            "execution_arn": arn,
            "redrive_count": "0",
        }
        text = json.dumps(line, separators=(",", ":"), ensure_ascii=False)
        lines.append(text.replace(own_arn, arn).replace(own_arn.rpartition(":")[2], EXECUTION) if own_arn else text)
    return lines


def by_default(node: Any) -> Any:
    """Return a part of the template with its parameters' defaults."""
    defaults = {name: parameter_value(parameter, None) for name, parameter in TEMPLATE["Parameters"].items()}
    return resolved(node, defaults, TEMPLATE["Conditions"])


def logging_config() -> dict[str, str]:
    """Return how the template lets Lambda log: `LogFormat`, `ApplicationLogLevel` and `SystemLogLevel`."""
    config = {**TEMPLATE["Globals"]["Function"]["LoggingConfig"]}
    del config["LogGroup"]
    levels: dict[str, str] = by_default(config)
    return levels


def exists_by_default(resource: Mapping[str, Any]) -> bool:
    """Return whether a resource's condition, if it has one, holds for the parameters' defaults."""
    return "Condition" not in resource or by_default(TEMPLATE["Conditions"][resource["Condition"]])


def is_traced() -> bool:
    """Return whether X-Ray traces the API, the machines and the functions."""
    return bool(by_default(TEMPLATE["Globals"]["Function"]["Tracing"]) == "Active")


def platform_lines(has_tracing: bool, config: Mapping[str, str], is_error: bool = False) -> list[str]:
    """Return what Lambda itself logs for one call."""
    if config.get("LogFormat") == "JSON":
        if config["SystemLogLevel"] == "INFO":
            return [START_EVENT, *(FAILURE_EVENTS if is_error else [REPORT_EVENT])]
        return FAILURE_EVENTS if is_error else []
    *first, report = PLATFORM_LINES
    return [*first, report + (XRAY_LINE if has_tracing else "")]


def measure(bench: "Bench") -> dict[str, Any]:
    """Return the bytes of each case by design: the execution's history and the functions' logs."""
    level = by_default(RESOURCES["BankAppCallback"]["Properties"]["Logging"]["Level"])
    is_on = TEMPLATE["Parameters"]["LogExecutionData"]["Default"] == "true"
    has_tracing = is_traced()
    cases = []
    for number, (path, size) in enumerate(CASES):
        events = recorded()[path, size]["events"]
        histories = {has_data: history_lines(events, has_data, level=level) for has_data in (True, False)}
        invocations = [invocation for _, invocation, _ in bench.run(OURS, path, size, 200_000 + number)]
        own = [line for invocation in invocations for line in own_lines(invocation.log)]
        tasks, tasks_info = (
            own + [line for each in invocations for line in platform_lines(has_tracing, config, each.is_error)]
            for config in (logging_config(), logging_config() | {"SystemLogLevel": "INFO"})
        )
        baseline = [
            line
            for _, invocation, _ in bench.run(BASELINE, path, size, 300_000 + number)
            for line in [*platform_lines(False, {}), *own_lines(invocation.log)]
        ]
        cases.append(
            {
                "path": path,
                "size": size,
                "events": len(events),
                "history": billed_bytes(histories[True]),
                "history_without_data": billed_bytes(histories[False]),
                "history_errors": billed_bytes(history_lines(events, is_on, level="ERROR")),
                "tasks": billed_bytes(tasks),
                "tasks_info": billed_bytes(tasks_info),
                "total": billed_bytes(histories[is_on]) + billed_bytes(tasks),
                "baseline": billed_bytes(baseline),
            }
        )
    return {"cases": cases, "has_data": is_on}


def own_lines(text: str) -> list[str]:
    """Return the log events in what a function printed; the runtime client ends the lines of a stack trace with \\r."""
    return [line for line in text.split("\n") if line]


def _details(details: Mapping[str, Any], has_data: bool) -> dict[str, Any]:
    written: dict[str, Any] = {}
    for name, value in details.items():
        if name in DATA and not has_data:
            continue
        written[name] = _compact(value) if name in {"input", "output", "parameters"} else value
        if name in {"input", "output"}:
            written.setdefault(f"{name}Details", {"truncated": False})
    if has_data and "output" in written and "resourceType" in written:
        written["output"] = _with_metadata(written["output"])
    return written


def _with_metadata(output: str) -> str:
    """Add to a service's answer what Step Functions adds, unless it is there."""
    answer = json.loads(output)
    return _dump({**METADATA, **answer}) if isinstance(answer, dict) else output


def _compact(text: str) -> str:
    """Return JSON as Step Functions writes it, without blanks."""
    return _dump(json.loads(text))


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _milliseconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1000)


def _own_arn(events: Sequence[Mapping[str, Any]]) -> str:
    """Return the execution's ARN in the engine, if the events show one."""
    for event in events:
        text = json.dumps(event)
        if (start := text.find("arn:aws:states:ap-southeast-1:123456789012:execution:")) >= 0:
            return text[start:].partition("\\")[0].partition('"')[0]
    return ""
