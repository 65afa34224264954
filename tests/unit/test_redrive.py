"""The command that redrives failed deliveries, against a stack and a healing workflow that the tests play."""

import json
from typing import Any

import pytest

import redrive

MACHINE_ARN = "arn:aws:states:ap-southeast-1:000000000000:stateMachine:payment3-bankapp-healing-prod"
REQUEST_ID = "8f7e6d5c-4b3a-4291-8807-f6e5d4c3b2a1"
RESOLVED = {"requestId": REQUEST_ID, "orderId": "1", "status": "resolved", "lastResult": "200 recorded"}
FAILED = {"requestId": "other", "orderId": None, "status": "open", "lastResult": "500 Internal error"}


class Aws:
    """CloudFormation and Step Functions; `pages` has the results of the healing workflow."""

    def __init__(self, *pages: list[dict[str, Any]]) -> None:
        self.pages = pages
        self.clients: list[dict[str, Any]] = []
        self.stacks: list[str] = []
        self.selections: list[dict[str, Any]] = []

    def client(self, service: str, **options: Any) -> "Aws":
        self.clients.append({"service": service, **options})
        return self

    def describe_stacks(self, StackName: str) -> dict[str, Any]:  # noqa: N803 boto3's
        self.stacks.append(StackName)
        return {"Stacks": [{"Outputs": [{"OutputKey": "HealingStateMachineArn", "OutputValue": MACHINE_ARN}]}]}

    def start_execution(self, **execution: str) -> dict[str, str]:
        assert execution["stateMachineArn"] == MACHINE_ARN
        self.selections.append(json.loads(execution["input"]))
        return {"executionArn": str(len(self.selections) - 1)}

    def describe_execution(self, executionArn: str) -> dict[str, str]:  # noqa: N803 boto3's
        number = int(executionArn)
        results = self.pages[number]
        following = {"page": number + 1} if number + 1 < len(self.pages) else None
        output = {"found": {"failures": results, "next": following}, "results": results}
        return {"status": "SUCCEEDED", "output": json.dumps(output)}


def aws_with(monkeypatch: pytest.MonkeyPatch, *pages: list[dict[str, Any]]) -> Aws:
    aws = Aws(*pages)
    monkeypatch.setattr("boto3.client", aws.client)
    return aws


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--order", "1"], "one of the arguments --stack --local is required"),
        (["--order", "1", "--local", "--stack", "some"], "argument --stack: not allowed with argument --local"),
        (["--stack", "some"], "one of the arguments --request --order --since is required"),
        (
            ["--stack", "some", "--order", "1", "--request", "2"],
            "argument --request: not allowed with argument --order",
        ),
        (["--stack", "some", "--request"], "argument --request: expected one argument"),
        (["--stack", "some", "--req", "1"], "one of the arguments --request --order --since is required"),
    ],
)
def test_a_command_without_a_stack_or_a_selection_runs_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    aws = aws_with(monkeypatch, [])
    with pytest.raises(SystemExit) as end:
        redrive.main(options)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert aws.clients == []


def test_the_named_stack_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    aws = aws_with(monkeypatch, [RESOLVED])
    assert redrive.main(["--stack", "payment3-callback-prod", "--region", "eu-west-1", "--order", "1"]) == 0
    assert aws.stacks == ["payment3-callback-prod"]
    assert aws.clients == [
        {"service": "cloudformation", "region_name": "eu-west-1"},
        {"service": "stepfunctions", "region_name": "eu-west-1"},
    ]


def test_the_local_stack_is_used_at_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PORT", "4567")
    aws = aws_with(monkeypatch, [RESOLVED])
    assert redrive.main(["--local", "--order", "1"]) == 0
    assert aws.stacks == ["payment3-callback-local"]
    assert {client["endpoint_url"] for client in aws.clients} == {"http://127.0.0.1:4567"}


@pytest.mark.parametrize(
    ("options", "selection"),
    [
        (["--request", REQUEST_ID], {"requestId": REQUEST_ID}),
        # The workflow knows which delivery that is.
        (["--request", f"{REQUEST_ID}-redrive-8"], {"requestId": f"{REQUEST_ID}-redrive-8"}),
        # An id is base64 for URLs, so one in 64 begins with a hyphen.
        (["--request", "-D5fJx_0aBcDeFg"], {"requestId": "-D5fJx_0aBcDeFg"}),
        (["--request", "--5fJx_0aBcDeFg"], {"requestId": "--5fJx_0aBcDeFg"}),
        (["--request=-D5fJx_0aBcDeFg"], {"requestId": "-D5fJx_0aBcDeFg"}),
        (["--order", "1"], {"orderId": "1"}),
        (["--order", "-1"], {"orderId": "-1"}),
        (["--since", "2026-11-22T10:00Z", "--dry-run"], {"since": "2026-11-22T10:00Z", "dryRun": True}),
    ],
)
def test_the_workflow_receives_the_selection(
    monkeypatch: pytest.MonkeyPatch, options: list[str], selection: dict[str, Any]
) -> None:
    aws = aws_with(monkeypatch, [RESOLVED])
    assert redrive.main(["--stack", "some", *options]) == 0
    assert aws.selections == [{**selection, "limit": redrive.PAGE}]


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["run", "dry run"])
@pytest.mark.parametrize(
    ("options", "code", "printed"),
    [
        (["--order", "1"], 0, "Nothing to redrive.\n"),
        (["--since", "2026-11-22T10:00Z"], 0, "Nothing to redrive.\n"),
        (
            ["--request", REQUEST_ID],
            1,
            f"Nothing to redrive: no failed delivery {REQUEST_ID}, or it is resolved.\n",
        ),
    ],
)
def test_finding_nothing_is_a_failure_only_for_a_single_delivery(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    dry_run: list[str],
    code: int,
    printed: str,
) -> None:
    aws_with(monkeypatch, [])
    assert redrive.main(["--stack", "some", *options, *dry_run]) == code
    assert capsys.readouterr().out == printed


def test_each_delivery_of_each_page_is_printed_and_an_open_one_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    aws = aws_with(monkeypatch, [RESOLVED], [FAILED, RESOLVED])
    assert redrive.main(["--stack", "some", "--order", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["resolved", "open", "resolved"]
    assert lines[-1] == "3 redriven: 2 resolved, 1 open"
    assert aws.selections[1]["after"] == {"page": 1}
