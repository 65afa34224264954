"""The bytes that a path logs, as CloudWatch bills them: the history of the execution, and the functions' own lines."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bench.deployment import ALTERNATIVES, PRODUCTION, Deployment
from bench.paths import BASELINE, FORGED, LARGE, MEDIUM, OURS, REQUEST_IDS, SMALL, recorded

if TYPE_CHECKING:
    from bench.designs import Bench
    from bench.runtime import Invocation

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


def platform_lines(has_tracing: bool, config: Mapping[str, str], is_error: bool = False) -> list[str]:
    """Return what Lambda itself logs for one call."""
    if config.get("LogFormat") == "JSON":
        if config["SystemLogLevel"] == "INFO":
            return [START_EVENT, *(FAILURE_EVENTS if is_error else [REPORT_EVENT])]
        return FAILURE_EVENTS if is_error else []
    *first, report = PLATFORM_LINES
    return [*first, report + (XRAY_LINE if has_tracing else "")]


def measure(bench: "Bench") -> dict[str, Any]:
    """Return the bytes of each case by design: the execution's history, and what the functions and the API log."""
    return {"cases": [_case(bench, number, path, size) for number, (path, size) in enumerate(CASES)]}


def _case(bench: "Bench", number: int, path: str, size: int) -> dict[str, Any]:
    run = recorded()[path, size]
    events, status = run["events"], json.loads(run["output"])["statusCode"]
    invocations = [invocation for _, invocation, _ in bench.run(OURS, path, size, 200_000 + number)]

    def tasks(deployment: Deployment) -> list[str]:
        return [line for each in invocations for line in task_lines(each, deployment)]

    def total(deployment: Deployment) -> int:
        history = history_lines(events, deployment.has_data, level=deployment.level)
        return billed_bytes([*history, *tasks(deployment), *deployment.api_lines(REQUEST_IDS[0], status)])

    baseline = [
        line
        for _, invocation, _ in bench.run(BASELINE, path, size, 300_000 + number)
        for line in [*platform_lines(False, {}), *own_lines(invocation.log)]
    ]
    return {
        "path": path,
        "size": size,
        "events": len(events),
        "history": billed_bytes(history_lines(events, has_data=True)),
        "history_without_data": billed_bytes(history_lines(events, has_data=False)),
        "tasks": billed_bytes(tasks(PRODUCTION)),
        "api": billed_bytes(PRODUCTION.api_lines(REQUEST_IDS[0], status)),
        "totals": {each.name: total(each) for each in [PRODUCTION, *ALTERNATIVES]},
        "baseline": billed_bytes(baseline),
    }


def task_lines(invocation: "Invocation", deployment: Deployment) -> list[str]:
    """Return what a function and Lambda itself log for one call."""
    platform = platform_lines(deployment.is_traced, deployment.lambda_logs, invocation.is_error)
    return [*own_lines(invocation.log), *platform]


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
