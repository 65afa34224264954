"""The arithmetic of the benchmarks: the bill, the log's lines, the pictures; not the measurements."""

import dataclasses
import json
import math
import xml.etree.ElementTree as ET
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

import package
from bench import account, artefact, bill, log, paths, report
from bench.deployment import ALTERNATIVES, PRODUCTION, Deployment
from bench.runtime import Invocation
from bench.spread import middle_half

PRICES: dict[str, Any] = {
    "prices": {
        "api_request": 4e-6,
        "express_request": 1e-6,
        "express_gb_second": 2e-5,
        "lambda_request": 2e-7,
        "lambda_gb_second": 1e-5,
        "write_unit": 7e-7,
        "read_unit": 1e-7,
        "log_gb": 0.5,
        "xray_trace": 5e-6,
        "queue_request": 4e-7,
        "standard_transition": 2e-5,
        "alarm_month": 0.1,
        "metric_month": 0.3,
        "storage_gb_month": 0.25,
        "backup_gb_month": 0.2,
    },
    "xray": {"rate": 0.05},
    "latency_ms": {
        "dynamodb_write": 6,
        "dynamodb_read": 4,
        "lambda_invoke": 12,
        "queue": 8,
        "state": 2,
        "function": 15,
        "sandbox": 150,
    },
    "baseline": {"memory_mb": 1769},
}
MOTO_ARN = "arn:aws:states:ap-southeast-1:123456789012:execution:payment3-bankapp-callback-test:1f0c"
EVENTS: list[dict[str, Any]] = [
    {
        "id": 1,
        "previousEventId": 0,
        "type": "ExecutionStarted",
        "timestamp": "2026-11-25T10:00:00.250Z",
        "executionStartedEventDetails": {"input": '{"body": "é"}', "roleArn": "arn:role"},
    },
    {
        "id": 2,
        "previousEventId": 1,
        "type": "TaskSucceeded",
        "timestamp": "2026-11-25T10:00:00.251Z",
        "taskSucceededEventDetails": {
            "resource": "invoke",
            "resourceType": "lambda",
            "output": json.dumps({"Payload": {"executionArn": MOTO_ARN}, "StatusCode": 200}),
        },
    },
    {
        "id": 3,
        "previousEventId": 2,
        "type": "LambdaFunctionSucceeded",
        "timestamp": "2026-11-25T10:00:00.252Z",
        "lambdaFunctionSucceededEventDetails": {"output": '{"isNew": true}'},
    },
]
ENTERED = {"id": 1, "previousEventId": 0, "type": "TaskStateEntered", "timestamp": "2026-11-25T10:00:00.250Z"}


def month(callbacks: float, is_traced: bool = False, **usage: float) -> dict[str, float]:
    return bill.month(callbacks, bill.Usage(**usage), is_traced, PRICES)


def test_express_is_billed_in_64_megabytes_and_steps_of_100_milliseconds() -> None:
    assert bill.express_gb_seconds(1) == bill.express_gb_seconds(100) == pytest.approx(0.1 / 16)
    assert bill.express_gb_seconds(101) == pytest.approx(0.2 / 16)


def test_lambda_is_billed_in_whole_milliseconds_of_its_memory() -> None:
    assert bill.lambda_gb_seconds(9.1, 512) == pytest.approx(0.010 * 0.5)


def test_less_memory_than_a_vcpu_needs_makes_the_cpu_slower() -> None:
    assert bill.cpu_time(10, 1769) == bill.cpu_time(10, 3008) == 10
    assert bill.cpu_time(10, 1769 / 2) == 20


def test_a_function_waits_for_each_of_its_calls() -> None:
    calls = {"dynamodb PutItem": 2, "dynamodb Query": 1, "dynamodb GetItem (consistent)": 1, "sqs ReceiveMessage": 1}
    assert bill.call_time({**calls, "lambda Invoke (Event)": 1}, PRICES["latency_ms"]) == 2 * 6 + 2 * 4 + 8 + 12


def test_xray_records_the_first_request_of_a_second_and_5_percent_of_the_rest() -> None:
    rare, dense = 1000, 100 * bill.SECONDS_PER_MONTH
    assert bill.traces(rare, PRICES["xray"]) == pytest.approx(rare, rel=1e-3)
    assert bill.traces(dense, PRICES["xray"]) == pytest.approx(bill.SECONDS_PER_MONTH * (1 + 99 * 0.05))
    # At one a second on average, of 100 seconds 37 are empty.
    first = (1 - math.exp(-1)) * bill.SECONDS_PER_MONTH
    assert bill.traces(bill.SECONDS_PER_MONTH, PRICES["xray"]) == pytest.approx(
        first + 0.05 * (bill.SECONDS_PER_MONTH - first)
    )


def test_a_months_bill_multiplies_usage_by_prices() -> None:
    items = month(
        1_000_000,
        is_traced=True,
        express_requests=1,
        express_gb_seconds=0.0125,
        lambda_requests=3,
        lambda_gb_seconds=0.05,
        write_units=4,
        once_write_units=3,
        read_units=2.5,
        log_bytes=1024,
    )
    assert {name: round(dollars, 4) for name, dollars in items.items()} == {
        "API Gateway": 4.0,
        "Step Functions": 1.25,
        "Lambda": 1.1,
        "DynamoDB": 3.05,
        "exactly once (ledger)": 2.1,
        "CloudWatch Logs": round(1e6 * 1024 / 2**30 * 0.5, 4),
        "X-Ray": round(bill.traces(1e6, PRICES["xray"]) * 5e-6, 4),
    }


def test_a_bill_without_tracing_has_no_traces() -> None:
    assert month(1000)["X-Ray"] == 0


def test_the_price_file_has_every_price_that_the_bill_uses() -> None:
    prices = bill.read_prices()
    assert {section: set(names) for section, names in prices.items() if section in PRICES} == {
        section: set(names) for section, names in PRICES.items()
    }
    assert [volume["callbacks"] for volume in prices["volumes"]] == [10_000, 1_000_000, 100_000_000]


def test_the_ledgers_units_are_those_on_the_page_of_guarantees() -> None:
    assert bill.units_in_guarantees() == (6, 2.5)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Results of two functions with a full vCPU and 1,024 MB, a history of two states, and a record of two units."""
    called = ENTERED | {"type": "TaskScheduled", "taskScheduledEventDetails": {"resourceType": "dynamodb"}}
    runs = {
        ("paid", paths.SMALL): {
            "events": [ENTERED, ENTERED, called],
            "items": [{"body": "x" * 1_100, "shard": None}, {"orderKey": "o" * 12, "paymentId": "p" * 11, "by": "d"}],
        },
        ("idle", 0): {"events": [ENTERED, ENTERED]},
    }
    monkeypatch.setattr(bill, "recorded", lambda: runs)
    monkeypatch.setattr(bill, "_memory_of", lambda _: 1024)
    monkeypatch.setattr(bill, "VCPU_MB", 1024)

    def cold(init: float, **calls: float) -> dict[str, Any]:
        return {"init_cpu_ms": init, "first_call_cpu_ms": calls}

    write, reads = {"dynamodb PutItem": 1}, {"dynamodb Query": 3, "dynamodb Scan (consistent)": 1}
    idle_calls = {**reads, "sqs ReceiveMessage": 2, "dynamodb UpdateItem": 1}
    return {
        "cold": {
            "functions": {"Save": cold(80, paid=14), "Invoke": cold(70, paid=26), "Find": cold(100, idle=49)},
            "baseline": cold(200, paid=94),
        },
        "warm": {
            "paid": {
                "ours": {
                    "functions": {
                        "Save": {"cpu_ms": 4, "calls": write},
                        "Invoke": {"cpu_ms": 8, "calls": {"lambda Invoke (Event)": 1}},
                    }
                },
                "baseline": {"functions": {"BankAppCallback": {"cpu_ms": 4, "calls": write}}},
            },
            "idle": {"ours": {"functions": {"Find": {"cpu_ms": 9, "calls": idle_calls}}, "calls": idle_calls}},
        },
        "log": {"cases": [{"path": "paid", "size": 190, "totals": {"production": 9_000}, "baseline": 2_000}]},
    }


def test_a_paid_callback_uses_the_mean_of_a_cold_and_a_warm_one(small: dict[str, Any]) -> None:
    usage = bill.paid_usage(PRODUCTION, 0.25, small, PRICES)
    assert (usage.express_requests, usage.lambda_requests, usage.log_bytes) == (1, 2, 9_000)
    # Save takes 100 ms cold and 10 ms warm, Invoke 108 and 20.
    assert usage.lambda_gb_seconds == pytest.approx(0.25 * 0.208 + 0.75 * 0.030)
    # With 15 ms for each function and 10 ms for the states 70 ms warm; cold 548 ms, with 150 ms for each sandbox.
    assert usage.express_gb_seconds == pytest.approx((0.25 * 0.6 + 0.75 * 0.1) / 16)
    # The record takes two units to write and one more to confirm; the page has six more, three of them the ledger's.
    assert (usage.write_units, usage.once_write_units, usage.read_units) == (2 + 1 + 6 - 3, 3, 2.5)


def test_the_one_lambda_uses_one_function_and_one_write(small: dict[str, Any]) -> None:
    # 300 ms cold and 10 ms warm, of 1,769 MB.
    gb_seconds = 0.3 * 0.25 * 1769 / 1024 + 0.01 * 0.75 * 1769 / 1024
    usage = bill.paid_usage(None, 0.25, small, PRICES)
    assert usage.lambda_gb_seconds == pytest.approx(gb_seconds)
    others = dataclasses.replace(usage, lambda_gb_seconds=0)
    assert others == bill.Usage(lambda_requests=1, write_units=1, log_bytes=2_000)


def test_idle_healing_is_billed_for_a_cold_run_every_five_minutes(small: dict[str, Any]) -> None:
    items = bill.fixed_month(small, PRICES, PRODUCTION)
    # 149 ms of CPU, 4 reads, 1 write and 2 receives; the consistent read counts twice.
    function = 2e-7 + (149 + 4 * 4 + 6 + 2 * 8) / 1000 * 1e-5
    calls = (3 * 0.5 + 1) * 1e-7 + 7e-7 + 2 * 4e-7
    lines = log.history_lines([ENTERED, ENTERED], has_data=False)
    run = 3 * 2e-5 + function + calls + log.billed_bytes(lines) / 2**30 * 0.5
    assert items == {
        "alarms": pytest.approx(PRODUCTION.alarms * 0.1),
        "healing, idle": pytest.approx(8640 * run + 0.3),
    }


@pytest.mark.usefixtures("small")
def test_a_paid_callback_leaves_a_record_and_a_payment_with_its_index_entry() -> None:
    record, keys = 4 + 1_100, 8 + 12 + 9 + 11
    assert bill.stored_bytes() == record + 100 + keys + 2 + 1 + 100 + keys + 100


def test_cloudwatch_bills_26_bytes_beside_each_events_utf_8() -> None:
    assert log.billed_bytes(["é", "ab"]) == 2 + 2 + 2 * 26


def test_a_history_is_written_as_an_event_a_line() -> None:
    started, *_ = log.history_lines(EVENTS, has_data=True, arn="arn:express")
    assert started == (
        '{"id":"1","type":"ExecutionStarted","details":{"input":"{\\"body\\":\\"é\\"}","inputDetails":'
        '{"truncated":false},"roleArn":"arn:role"},"previous_event_id":"0","event_timestamp":"1795600800250",'
        '"execution_arn":"arn:express","redrive_count":"0"}'
    )


def test_only_an_integrations_answer_has_step_functions_metadata() -> None:
    _, invoked, called = (json.loads(line) for line in log.history_lines(EVENTS, has_data=True))
    output = json.loads(invoked["details"]["output"])
    assert set(output) == {"Payload", "StatusCode", "SdkHttpMetadata", "SdkResponseMetadata"}
    assert output["Payload"] == {"executionArn": log.EXECUTION_ARN}
    assert called["details"] == {"output": '{"isNew":true}', "outputDetails": {"truncated": False}}


def test_a_history_without_data_has_neither_input_nor_output() -> None:
    details = [json.loads(line)["details"] for line in log.history_lines(EVENTS, has_data=False)]
    assert details == [{"roleArn": "arn:role"}, {"resource": "invoke", "resourceType": "lambda"}, {}]


def test_a_history_at_level_error_has_only_what_failed() -> None:
    failed = {
        "id": 4,
        "previousEventId": 3,
        "type": "LambdaFunctionFailed",
        "timestamp": "2026-11-25T10:00:00.253Z",
        "lambdaFunctionFailedEventDetails": {"error": "InvalidCallback", "cause": "{}"},
    }
    (line,) = log.history_lines([*EVENTS, failed], has_data=False, level="ERROR")
    assert (json.loads(line)["id"], json.loads(line)["details"]) == ("4", {"error": "InvalidCallback"})


def test_production_is_what_samconfig_names_and_else_the_templates_defaults() -> None:
    assert (PRODUCTION.name, PRODUCTION.has_data, PRODUCTION.level) == ("production", False, "ALL")
    assert (PRODUCTION.lambda_logs["SystemLogLevel"], PRODUCTION.is_traced) == ("WARN", False)
    assert PRODUCTION.healing_minutes == 5


def test_each_other_setting_of_production_changes_one_thing() -> None:
    changed = {deployment.name: deployment for deployment in ALTERNATIVES}
    assert changed["LogExecutionData=true"].has_data
    assert changed["WorkflowLogLevel=ERROR"].level == "ERROR"
    assert changed["SystemLogLevel=INFO"].lambda_logs["SystemLogLevel"] == "INFO"
    assert changed["Tracing=true"].is_traced
    assert changed["HealingMinutes=30"].healing_minutes == 30
    assert changed["WatchApi=false"].alarms == PRODUCTION.alarms - 1
    assert len(changed) == 6


def test_the_watched_api_logs_a_line_for_a_callback() -> None:
    (line,) = PRODUCTION.api_lines("JKJaXmPLvHcESHA=", 500)
    assert json.loads(line) == {
        "requestId": "JKJaXmPLvHcESHA=",
        "status": "500",
        "integration": "200",
        "error": "-",
    }
    assert Deployment({"WatchApi": "false"}).api_lines("JKJaXmPLvHcESHA=", 500) == []


def test_a_task_logs_its_own_lines_and_those_of_lambda() -> None:
    invocation = Invocation(cpu_ms=1, wall_ms=1, answer={}, is_error=False, log="one\ntwo\n")
    assert log.task_lines(invocation, PRODUCTION) == ["one", "two"]
    assert len(log.task_lines(invocation, Deployment({"SystemLogLevel": "INFO"}))) == 4


def test_lambda_logs_three_lines_of_text_or_what_its_level_lets_through() -> None:
    assert len(log.platform_lines(has_tracing=True, config={})) == 3
    assert "XRAY" in log.platform_lines(has_tracing=True, config={})[-1]
    assert "XRAY" not in "".join(log.platform_lines(has_tracing=False, config={}))
    info, warn = ({"LogFormat": "JSON", "SystemLogLevel": level} for level in ("INFO", "WARN"))
    assert len(log.platform_lines(has_tracing=True, config=info)) == 2
    assert log.platform_lines(has_tracing=True, config=warn) == []
    failed = log.platform_lines(has_tracing=True, config=warn, is_error=True)
    assert [json.loads(line)["record"]["status"] for line in failed] == ["error", "error"]


@pytest.mark.parametrize(
    ("path", "size"), [(path, size) for path, sizes in paths.PATHS.items() for size in sizes if size]
)
def test_each_body_has_its_size(path: str, size: int) -> None:
    assert {len(body.encode()) for body in paths.body_of_path(path, size)} == {size}


def test_a_numbered_payload_is_as_long_as_its_pattern_and_of_its_own() -> None:
    (body,) = paths.body_of_path("paid", paths.SMALL)
    first, second = paths.numbered(body, 1), paths.numbered(body, 2)
    assert len(first) == len(second) == len(body)
    for field in ("orderId", "paymentId"):
        assert json.loads(first)[field] != json.loads(second)[field]


def test_a_report_of_another_kind_of_failure_is_as_long() -> None:
    report_of = '{"report": {"functionName": "bankappcallback"}}'
    assert paths.of_kind(report_of, 7) == '{"report": {"functionName": "bankap000000007"}}'


def test_a_consistent_read_is_a_kind_of_its_own() -> None:
    headers = Message()
    headers["X-Amz-Target"] = "DynamoDB_20120810.GetItem"
    bodies = [b'{"ConsistentRead": true}', b'{"ConsistentRead": false}', b"{}"]
    kinds = [account.kind_of("/", headers, body) for body in bodies]
    assert kinds == ["dynamodb GetItem (consistent)", *2 * ["dynamodb GetItem"]]


def test_a_build_is_measured_as_its_zip_holds_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(artefact, "WORK", tmp_path / "work")
    (tmp_path / "code/callbacks").mkdir(parents=True)
    (tmp_path / "code/callbacks/model.py").write_text("x" * 1_000_000)
    package.write_zip(tmp_path / "code", tmp_path / package.ZIP)
    unpacked = artefact.unpack(tmp_path)
    assert (unpacked / "callbacks/model.py").stat().st_size == 1_000_000
    assert artefact.size_of(unpacked) == {"unpacked": 1.0, "zip": (tmp_path / package.ZIP).stat().st_size / 1e6}


def test_a_goal_is_met_up_to_its_limit() -> None:
    goal = report.Goal("bill", "x", 1.5, lambda results: float(results["bill"]), 2)
    assert [goal.verdict({"bill": 1.5}), goal.verdict({"bill": 1.51}), goal.verdict({})] == ["yes", "no", "-"]
    assert [goal.show({"bill": 1.234}), goal.show({})] == ["1.23x", "-"]


def test_the_floor_of_the_bill_is_without_logs_alarms_metrics_and_healing() -> None:
    ours = {
        "API Gateway": 4.0,
        "X-Ray": 0.0,
        "Lambda": 2.0,
        "CloudWatch Logs": 5.0,
        "alarms": 1.0,
        "healing, idle": 3.0,
    }
    million = {"callbacks": 1_000_000, "per_million": {"ours": ours}, "total": {"ours": 15.0, "baseline": 8.0}}
    assert report.floor_of_bill({"bill": {"volumes": [million]}}) == [
        ["API Gateway", "4.00", "0.50x"],
        ["Lambda", "2.00", "0.25x"],
        ["**the floor: all of these**", "6.00", "0.75x"],
        ["CloudWatch Logs", "5.00", "0.62x"],
        ["alarms", "1.00", "0.12x"],
        ["healing, idle", "3.00", "0.38x"],
        ["the bill", "15.00", "1.88x"],
    ]


def test_the_floor_of_warm_cpu_is_four_calls_and_their_functions() -> None:
    ours = {
        "functions": {"ValidateCallback": {"cpu_ms": 1.0}, "SaveCallbackRecord": {"cpu_ms": 4.0}},
        "calls": {"dynamodb PutItem": 1, "dynamodb Query": 3},
        "cpu_ms": 10.0,
    }
    baseline = {"functions": {"BankAppCallback": {}}, "calls": {"lambda Invoke (Event)": 2}, "cpu_ms": 5.0}
    *_, all_of_it, of_two, of_one = report.floor_of_warm_cpu({"paid": {"ours": ours, "baseline": baseline}})
    assert all_of_it == ["CPU of all", "10.0 ms, 2.00x", "5.0 ms, 1.00x"]
    # Two invocations of 1 ms leave 8 ms for the four calls.
    assert of_two == ["the floor: 4 calls, functions: 2", "10.0 ms, 2.00x", "-"]
    assert of_one == ["the floor: 4 calls, functions: 1", "9.0 ms, 1.80x", "-"]


def test_the_page_shows_the_kept_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = report.PAGE
    monkeypatch.setattr(report, "PAGE", tmp_path / page.name)
    results = json.loads(report.RESULTS.read_text())
    for part, section in report.SECTIONS.items():
        assert section(results) in page.read_text(), part
    pictures = {picture.name: picture.read_text() for picture in tmp_path.iterdir()}
    assert pictures == {picture.name: picture.read_text() for picture in page.parent.glob("bench-*.svg")}


def test_the_middle_half_of_the_samples_is_between_their_quartiles() -> None:
    assert middle_half([5, 1, 4, 2, 3]) == [2, 4]


def test_a_picture_has_a_bar_for_each_number() -> None:
    picture = ET.fromstring(report.drawing("CPU <ms>", [("paid", {"ours": 748.2, "baseline": 374.1})]))  # noqa: S314
    bars = [bar for bar in picture.iter("{http://www.w3.org/2000/svg}rect") if bar.get("height") == "14"]
    assert [float(bar.get("width", "")) for bar in bars] == [420, 210]
    assert {"CPU <ms>", "748", "374"} <= {text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")}
