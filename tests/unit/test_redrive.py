"""The command that runs failed deliveries again; the stack and its healing workflow are played."""

import json
from typing import Any

import pytest

import redrive

MACHINE_ARN = "arn:aws:states:ap-southeast-1:000000000000:stateMachine:payment3-bankapp-healing-prod"
REQUEST_ID = "8f7e6d5c-4b3a-4291-8807-f6e5d4c3b2a1"
RESOLVED = {"requestId": REQUEST_ID, "orderId": "1", "status": "resolved", "lastResult": "200 recorded"}
FAILED = {"requestId": "other", "orderId": None, "status": "open", "lastResult": "500 Internal error"}


class Aws:
    """CloudFormation and Step Functions: `pages` has what the healing workflow finds and makes of it."""

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
    ],
)
def test_a_command_that_does_not_say_where_and_what_runs_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    aws = aws_with(monkeypatch, [])
    with pytest.raises(SystemExit) as end:
        redrive.main(options)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert aws.clients == []


def test_the_stack_that_is_named_is_the_one_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    aws = aws_with(monkeypatch, [RESOLVED])
    assert redrive.main(["--stack", "payment3-callback-prod", "--region", "eu-west-1", "--order", "1"]) == 0
    assert aws.stacks == ["payment3-callback-prod"]
    assert aws.clients == [
        {"service": "cloudformation", "region_name": "eu-west-1"},
        {"service": "stepfunctions", "region_name": "eu-west-1"},
    ]


def test_the_local_stack_is_asked_at_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PORT", "4567")
    aws = aws_with(monkeypatch, [RESOLVED])
    assert redrive.main(["--local", "--order", "1"]) == 0
    assert aws.stacks == ["payment3-callback-local"]
    assert {client["endpoint_url"] for client in aws.clients} == {"http://127.0.0.1:4567"}


@pytest.mark.parametrize(
    ("options", "selection"),
    [
        (["--request", REQUEST_ID], {"requestId": REQUEST_ID}),
        # Which delivery that is, is for the workflow to know.
        (["--request", f"{REQUEST_ID}-redrive-8"], {"requestId": f"{REQUEST_ID}-redrive-8"}),
        (["--order", "1"], {"orderId": "1"}),
        (["--since", "2026-11-22T10:00Z", "--dry-run"], {"since": "2026-11-22T10:00Z", "dryRun": True}),
    ],
)
def test_the_workflow_is_told_what_is_meant(
    monkeypatch: pytest.MonkeyPatch, options: list[str], selection: dict[str, Any]
) -> None:
    aws = aws_with(monkeypatch, [RESOLVED])
    assert redrive.main(["--stack", "some", *options]) == 0
    assert aws.selections == [{**selection, "limit": redrive.PAGE}]


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["run", "dry run"])
@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--order", "1"], 0, "Nothing to run again.\n"),
        (["--since", "2026-11-22T10:00Z"], 0, "Nothing to run again.\n"),
        (
            ["--request", REQUEST_ID],
            1,
            f"Nothing to run again: no failed delivery {REQUEST_ID}, or it is resolved.\n",
        ),
    ],
)
def test_what_is_not_found_is_said_and_a_failure_where_it_was_one_delivery(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    dry_run: list[str],
    code: int,
    said: str,
) -> None:
    aws_with(monkeypatch, [])
    assert redrive.main(["--stack", "some", *options, *dry_run]) == code
    assert capsys.readouterr().out == said


def test_each_delivery_of_each_page_is_printed_and_one_that_failed_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    aws = aws_with(monkeypatch, [RESOLVED], [FAILED, RESOLVED])
    assert redrive.main(["--stack", "some", "--order", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["resolved", "open", "resolved"]
    assert lines[-1] == "3 run again: 2 resolved, 1 open"
    assert aws.selections[1]["after"] == {"page": 1}
