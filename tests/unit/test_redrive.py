"""The command that redrives failed deliveries, against a stack and a healing workflow that the tests play."""

import io
import json
import uuid
from typing import Any

import pytest

import redrive
from callbacks import decisions

MACHINE_ARN = "arn:aws:states:ap-southeast-1:000000000000:stateMachine:payment3-bankapp-healing-prod"
REQUEST_ID = "8f7e6d5c-4b3a-4291-8807-f6e5d4c3b2a1"
RESOLVED = {"requestId": REQUEST_ID, "orderId": "1", "status": "resolved", "lastResult": "200 recorded"}
CALLER = "arn:aws:sts::123456789012:assumed-role/operator/nan"
FAILURE = {
    "requestId": REQUEST_ID,
    "orderId": "482500007436",
    "chargeId": "pay_bankapp_123",
    "status": "open",
    "error": "DispatchUndecided",
    "cause": json.dumps({"errorMessage": "The payment may have been dispatched 2 times"}),
}
FAILED = {"requestId": "other", "orderId": None, "status": "open", "lastResult": "500 Internal error"}


class Aws:
    """CloudFormation, STS and Step Functions; `pages` has the results of the healing workflow."""

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

    def get_caller_identity(self) -> dict[str, str]:
        return {"Arn": CALLER}

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
        (["--stack", "some"], "one of the arguments --request --order --since --list --digest is required"),
        (
            ["--stack", "some", "--order", "1", "--request", "2"],
            "argument --request: not allowed with argument --order",
        ),
        (["--stack", "some", "--order", "1", "--refused"], "--refused goes with --since"),
        (["--stack", "some", "--digest", "--dry-run"], "--digest and --list take no --dry-run and no decision"),
        (
            ["--stack", "some", "--digest", "--dismiss", "--reason", "r"],
            "--digest and --list take no --dry-run and no decision",
        ),
        (["--stack", "some", "--list", "--dry-run"], "--digest and --list take no --dry-run and no decision"),
        (["--stack", "some", "--request"], "argument --request: expected one argument"),
        (
            ["--stack", "some", "--req", "1"],
            "one of the arguments --request --order --since --list --digest is required",
        ),
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
        (["--since", "2026-11-22T10:00Z", "--refused"], {"since": "2026-11-22T10:00Z", "refused": True}),
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
        (
            ["--since", "2026-11-22T10:00Z"],
            0,
            "Refused callbacks are left out; --refused includes them.\nNothing to redrive.\n",
        ),
        (["--since", "2026-11-22T10:00Z", "--refused"], 0, "Nothing to redrive.\n"),
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


def test_the_list_shows_all_that_is_unresolved_and_counts_it_by_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = FAILURE | {"step": "VerifySignature", "error": "InvalidSignature"}
    given_up = FAILURE | {"step": "InvokeProcessPaid", "error": "ServiceUnavailable", "status": "given up"}
    aws = aws_with(monkeypatch, [refused, given_up], [given_up, {"requestId": "found in the records"}])
    assert redrive.main(["--stack", "some", "--list"]) == 0
    everything = {"since": "1970-01-01T00:00:00Z", "refused": True, "dryRun": True, "limit": redrive.PAGE}
    assert aws.selections == [everything, {**everything, "after": {"page": 1}}]
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" order ")[0].rstrip() for line in lines[:4]] == [
        "open",
        "given up",
        "given up",
        "undispatched",
    ]
    assert lines[4:] == [
        "2 given up: InvokeProcessPaid ServiceUnavailable",
        "1 open: VerifySignature InvalidSignature",
        "1 undispatched: unknown unknown",
        "4 unresolved",
    ]


# Decisions


def decide(*options: str, action: str = "--again", request_id: str = REQUEST_ID) -> int:
    return redrive.main(["--stack", "some", "--request", request_id, action, "--reason", "no trace", *options])


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> list[str]:
    """Answer the next questions; return them."""
    asked: list[str] = []

    def reply(question: str) -> str:
        asked.append(question)
        return text

    monkeypatch.setattr("builtins.input", reply)
    return asked


@pytest.mark.parametrize(
    ("action", "question"),
    [
        (
            "again",
            "Dispatch payment pay_bankapp_123 of order 482500007436 again? Process-paid may have received it before.",
        ),
        (
            "accept",
            "Dispatch payment pay_bankapp_123 of order 482500007436 as this delivery says? "
            "It contradicts an earlier one.",
        ),
        (
            "despite",
            "Dispatch payment pay_bankapp_123 of order 482500007436 if it passes the checks of today? "
            "It was refused before.",
        ),
        (
            "dismiss",
            "Dismiss the failed delivery of payment pay_bankapp_123 of order 482500007436? "
            "Nothing will be dispatched for it.",
        ),
    ],
)
def test_a_confirmed_decision_reaches_the_workflow_with_who_and_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], action: str, question: str
) -> None:
    aws = aws_with(monkeypatch, [FAILURE], [RESOLVED])
    asked = answer(monkeypatch, "y")
    assert decide(action=f"--{action}") == 0
    assert asked == [f"{question} [y/N] "]
    shown, outcome = capsys.readouterr().out.splitlines()
    assert shown.split()[:3] == ["open", "order", "482500007436"]
    assert shown.endswith("DispatchUndecided: The payment may have been dispatched 2 times")
    assert outcome.startswith("resolved ")
    listed, carried_out = aws.selections
    decision = carried_out["decision"]
    assert uuid.UUID(decision.pop("id"))
    assert decision == {"action": action, "by": CALLER, "reason": "no trace"}
    assert carried_out["requestId"] == REQUEST_ID
    assert listed == {**carried_out, "decision": listed["decision"], "dryRun": True}


@pytest.mark.parametrize("text", ["", "n", "no", "yeah", "yes please"])
def test_a_decision_that_is_not_confirmed_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    aws = aws_with(monkeypatch, [FAILURE], [RESOLVED])
    answer(monkeypatch, text)
    assert decide() == 1
    assert capsys.readouterr().out.endswith("Nothing was changed.\n")
    assert [selection["dryRun"] for selection in aws.selections] == [True]


def test_a_decision_without_anybody_to_ask_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    aws = aws_with(monkeypatch, [FAILURE], [RESOLVED])
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert decide() == 1
    assert [selection["dryRun"] for selection in aws.selections] == [True]


@pytest.mark.parametrize("text", ["y", "Y", " yes "])
def test_a_decision_is_confirmed_by_y_or_yes(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    aws_with(monkeypatch, [FAILURE], [RESOLVED])
    answer(monkeypatch, text)
    assert decide() == 0


def test_yes_decides_without_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    aws = aws_with(monkeypatch, [FAILURE], [RESOLVED])
    asked = answer(monkeypatch, "n")
    assert decide("--yes") == 0
    assert (asked, len(aws.selections)) == ([], 2)


def test_each_decision_has_an_id_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = set()
    for _ in range(2):
        aws = aws_with(monkeypatch, [FAILURE], [RESOLVED])
        decide("--yes")
        ids |= {selection["decision"]["id"] for selection in aws.selections}
    assert len(ids) == 2


@pytest.mark.parametrize("status", ["open", "given up", "skipped", "left for the next run"])
def test_a_decision_that_does_not_resolve_the_failure_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    aws_with(monkeypatch, [FAILURE], [RESOLVED | {"status": status}])
    assert decide("--yes") == 1


def test_a_decision_needs_a_failed_delivery(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    aws = aws_with(monkeypatch, [], [RESOLVED])
    assert decide("--yes") == 1
    assert capsys.readouterr().out == f"No failed delivery of the id {REQUEST_ID}.\n"
    assert len(aws.selections) == 1


def test_a_failure_without_an_order_can_be_decided_on(monkeypatch: pytest.MonkeyPatch) -> None:
    aws_with(monkeypatch, [FAILURE | {"orderId": None, "chargeId": None, "cause": "not JSON"}], [RESOLVED])
    asked = answer(monkeypatch, "y")
    assert decide(action="--dismiss") == 0
    assert "payment unknown of order unknown" in asked[0]


@pytest.mark.parametrize("request_id", ["-D5fJx_0aBcDeFg", "--5fJx_0aBcDeFg", "--again", "--yes"])
def test_an_id_that_begins_with_a_hyphen_is_decided_on(monkeypatch: pytest.MonkeyPatch, request_id: str) -> None:
    aws = aws_with(monkeypatch, [FAILURE], [RESOLVED])
    assert decide("--yes", request_id=request_id) == 0
    assert {selection["requestId"] for selection in aws.selections} == {request_id}


def test_a_reason_may_begin_with_a_hyphen(monkeypatch: pytest.MonkeyPatch) -> None:
    aws = aws_with(monkeypatch, [FAILURE], [RESOLVED])
    assert redrive.main(["--local", "--request", "1", "--dismiss", "--reason", "- paid by hand", "--yes"]) == 0
    assert aws.selections[1]["decision"]["reason"] == "- paid by hand"


NEEDS = "needs --request and --reason, and takes no --dry-run"
REASON = "--reason must have 1 to 500 printable characters"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--request", "1", "--again"], f"--again {NEEDS}"),
        (["--order", "1", "--accept", "--reason", "x"], f"--accept {NEEDS}"),
        (["--since", "2026-11-22T10:00Z", "--dismiss", "--reason", "x"], f"--dismiss {NEEDS}"),
        (["--request", "1", "--dismiss", "--reason", "x", "--dry-run"], f"--dismiss {NEEDS}"),
        (["--request", "1", "--again", "--accept", "--reason", "x"], "--accept: not allowed with argument --again"),
        (["--request", "1", "--again", "--reason", ""], REASON),
        (["--request", "1", "--again", "--reason", "  "], REASON),
        (["--request", "1", "--again", "--reason", "x" * 501], REASON),
        (["--request", "1", "--again", "--reason", "two\nlines"], REASON),
        (
            ["--request", "1", "--reason", "x"],
            "--reason, --of-order and --yes go with --again, --accept, --despite or --dismiss",
        ),
        (["--order", "1", "--yes"], "--reason, --of-order and --yes go with --again, --accept, --despite or --dismiss"),
    ],
)
def test_a_decision_that_is_incomplete_runs_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    aws = aws_with(monkeypatch, [FAILURE], [RESOLVED])
    with pytest.raises(SystemExit) as end:
        redrive.main(["--stack", "some", *options])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert aws.clients == []


def test_the_command_and_the_workflow_allow_the_same_reasons() -> None:
    assert redrive.MAX_REASON_CHARACTERS == decisions.MAX_CHARACTERS
    assert redrive.QUESTIONS.keys() == set(decisions.Action)


@pytest.mark.parametrize(
    ("message_id", "printed"), [("m-1", "The e-mail is sent."), (None, "No e-mail is sent, because nothing waits.")]
)
def test_the_digest_is_sent_by_the_healing_workflow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], message_id: str | None, printed: str
) -> None:
    aws = aws_with(monkeypatch)
    output = json.dumps({"digest": {"failures": 3, "fromAnyone": 40, "messageId": message_id}})
    monkeypatch.setattr(aws, "describe_execution", lambda **_: {"status": "SUCCEEDED", "output": output})
    assert redrive.main(["--stack", "some", "--digest"]) == 0
    assert aws.selections == [{"digest": True}]
    assert capsys.readouterr().out.splitlines() == [
        printed,
        "Waiting for an operator or given up: 3",
        "Not listed, because anybody can have caused them: 40",
    ]
