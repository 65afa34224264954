"""The command that marks payments as dispatched, on moto's DynamoDB."""

from pathlib import Path
from typing import Any

import pytest

import mark_dispatched
from callbacks import model
from tests.unit.kit import Client, Json, Load, Table, TableOf, items


class CloudFormation:
    """A stack with these outputs."""

    def __init__(self, outputs: dict[str, str]) -> None:
        self._outputs = outputs

    def describe_stacks(self, StackName: str) -> Json:  # noqa: N803 boto3's
        assert StackName == "payment3-callback-prod"
        return {"Stacks": [{"Outputs": [{"OutputKey": k, "OutputValue": v} for k, v in self._outputs.items()]}]}


@pytest.fixture
def ledger(table_of: TableOf) -> Table:
    return table_of("PaymentLedgerTable")


@pytest.fixture
def outputs(tables: dict[str, str]) -> dict[str, str]:
    return {"LedgerTableName": tables["PaymentLedgerTable"], "RecordTableName": tables["WalletCallbackRecordTable"]}


@pytest.fixture(autouse=True)
def _clients(monkeypatch: pytest.MonkeyPatch, dynamodb: Client, outputs: dict[str, str]) -> None:
    clients = {"cloudformation": CloudFormation(outputs), "dynamodb": dynamodb}

    def make(_: object) -> Any:
        return clients.__getitem__

    monkeypatch.setattr("stacks.client_maker", make)


def run(*arguments: object) -> int:
    return mark_dispatched.main([*map(str, arguments), "--stack", "payment3-callback-prod"])


def write(folder: Path, text: str) -> Path:
    file = folder / "payments.csv"
    file.write_text(text)
    return file


def test_the_payments_of_a_file_count_as_dispatched(
    ledger: Table, tmp_path: Path, load: Load, callback: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, "paymentId,amount,orderId\npay_bankapp_123,5,482500007436\n")
    assert run("--file", file) == 0
    assert capsys.readouterr().out == "1 marked, 0 already dispatched, 0 being dispatched, left alone\n"
    assert load("callbacks.ledger").standing_of("BankApp", callback) == "dispatched"
    assert len(items(ledger)) == 1


def test_marking_again_changes_nothing(ledger: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, "orderId,paymentId\n1,a\n1,b\n")
    run("--file", file)
    before = items(ledger)
    assert run("--file", file) == 0
    assert "0 marked, 2 already dispatched" in capsys.readouterr().out
    assert items(ledger) == before


def test_a_payment_that_is_being_dispatched_is_left_alone_and_named(
    ledger: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claimed = {"orderKey": "BankApp#1", "paymentId": "a", "claimedBy": "d", "attemptId": "x", "dispatches": 1}
    ledger.put_item(Item=claimed)
    assert run("--file", write(tmp_path, "orderId,paymentId\n1,a\n")) == 1
    assert "order 1 payment a: being dispatched" in capsys.readouterr().err
    assert items(ledger) == [claimed]


def test_the_records_that_show_a_dispatch_are_carried_over(ledger: Table, table_of: TableOf) -> None:
    records = table_of("WalletCallbackRecordTable")
    for order, dispatch in (("1", {"dispatchedBy": "d"}), ("2", {})):
        records.put_item(Item={"orderId": order, "deliveryId": "d", "paymentId": "a", **dispatch})
    assert run("--records") == 0
    assert [item["orderKey"] for item in items(ledger)] == ["BankApp#1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("order,payment\n1,a\n", "has no column orderId and paymentId"),
        ("orderId,paymentId\n1,a\n2,\n", "line 3: orderId or paymentId is not one"),
        ("orderId,paymentId\n1, a\n", "line 2: orderId or paymentId is not one"),
        ("orderId,paymentId\n1,e\u0301\n", "line 2: orderId or paymentId is not one"),
        ("", "has no column orderId and paymentId"),
    ],
)
def test_an_incomplete_file_is_refused_before_anything_is_written(
    ledger: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    assert run("--file", write(tmp_path, text)) == 1
    assert message in capsys.readouterr().err
    assert items(ledger) == []


def test_an_id_is_accepted_if_a_callback_with_it_is() -> None:
    ids = ["1", "", " ", "a ", "a" * 128, "a" * 129, "a\0b", "a\ufffdb", "e\u0301", "\u00e9"]
    problems = [model._id_problem(each) for each in ids]
    assert set(problems) == {None, *model.ID_PROBLEMS}
    assert [mark_dispatched._is_deliverable(each) for each in ids] == [problem is None for problem in problems]


def test_a_stack_without_a_ledger_is_named(outputs: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    del outputs["LedgerTableName"]
    assert run("--records") == 1
    assert "payment3-callback-prod has no output LedgerTableName" in capsys.readouterr().err
