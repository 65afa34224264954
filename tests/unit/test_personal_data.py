"""The command that exports and erases what is stored of an order or a user, on moto's DynamoDB."""

import json
from decimal import Decimal
from typing import Any

import pytest

import personal_data
from tests.unit.conftest import USER_ID
from tests.unit.kit import Client, Json, Load, Put, Table, TableOf, context, from_now, items
from tests.unit.test_mark_dispatched import CloudFormation
from tests.unit.test_save_callback_record import delivered
from tests.unit.test_save_callback_record import event as to_save

ORDER = "482500007436"
OTHER = "another user"


@pytest.fixture(autouse=True)
def _clients(monkeypatch: pytest.MonkeyPatch, dynamodb: Client, tables: dict[str, str]) -> None:
    outputs = {
        "RecordTableName": tables["WalletCallbackRecordTable"],
        "LedgerTableName": tables["PaymentLedgerTable"],
        "ErrorLogTableName": tables["CallbackErrorLogTable"],
    }
    clients = {"cloudformation": CloudFormation(outputs), "dynamodb": dynamodb}
    monkeypatch.setattr("stacks.client_maker", lambda _: clients.__getitem__)


@pytest.fixture
def ledger(table_of: TableOf) -> Table:
    return table_of("PaymentLedgerTable")


@pytest.fixture
def paid(load: Load, records: Table, ledger: Table, callback: Json) -> Put:
    """Store a dispatched delivery of a payment, as old as that of the callback, in the record table and the ledger."""
    save = load("save_callback_record")

    def put(user: str = USER_ID, order: str = ORDER, **changes: Any) -> Json:
        save.handler(to_save(callback, delivered(orderId=order, userId=user)), context())
        key = {"orderId": order, "deliveryId": callback["deliveryId"]}
        record: Json = records.get_item(Key=key)["Item"]
        del record["undispatchedSince"]
        record |= {"dispatchedBy": callback["deliveryId"], "receivedAt": "2020-01-01T10:00:00.000Z", **changes}
        record = {name: value for name, value in record.items() if value is not None}
        records.put_item(Item=record)
        ledger.put_item(Item={"orderKey": f"BankApp#{order}", "paymentId": "pay_bankapp_123", "dispatches": 1})
        return record

    return put


def event_of(user: str, *, is_whole: bool = True, **fields: Any) -> str:
    body = json.dumps({"userId": user, "message": "ก", **fields}, ensure_ascii=False)
    return json.dumps({"body": body if is_whole else body[:-1]})


def run(*arguments: str) -> int:
    return personal_data.main([*arguments, "--stack", "payment3-callback-prod"])


def exported(capsys: pytest.CaptureFixture[str]) -> list[Json]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


BY_ORDER, BY_USER = ("--order", ORDER), ("--user", USER_ID)


@pytest.mark.parametrize("whose", [BY_ORDER, BY_USER], ids=["order", "user"])
def test_an_export_has_every_item_and_nothing_of_others(
    paid: Put, failed: Put, whose: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    record = paid()
    paid(user=OTHER, order="another order")
    failure = failed(event=event_of(USER_ID))
    failed(requestId="another", orderId="another order", event=event_of(OTHER))
    # What the tasks have logged.
    capsys.readouterr()
    assert run("export", *whose) == 0
    found = exported(capsys)
    assert [item["where"] for item in found] == ["failure", "record", "ledger"]
    assert found[0] == {"where": "failure", **failure, "attempts": "0"}
    assert found[1] == {"where": "record", **record, "amount": "2339.0"}
    assert found[2]["orderKey"] == f"BankApp#{ORDER}"


def test_an_export_is_more_than_one_page_long(
    failed: Put, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    for number in range(8):
        failed(requestId=f"r{number}", event=event_of(USER_ID, padding="x" * 300_000))
    assert run("export", *BY_USER) == 0
    assert sorted(item["requestId"] for item in exported(capsys)) == [f"r{number}" for number in range(8)]
    # Two pages of the error log, and those of the other tables.
    assert len(pauses) > 3
    assert all(pause > 0 for pause in pauses)


@pytest.mark.parametrize(
    ("event", "is_found"),
    [
        (event_of(USER_ID, is_whole=False), True),
        (event_of(OTHER, is_whole=False), False),
        # Only the field counts, if the body can be read.
        (event_of(OTHER, message=USER_ID), False),
        (event_of(f"{USER_ID}-2", is_whole=False), False),
        (json.dumps(json.dumps({"userId": USER_ID})), True),
        *((json.dumps(delivery), False) for delivery in (None, 7, {}, {"body": None}, {"body": "[]"})),
    ],
)
def test_a_failure_is_the_users_if_its_body_names_them(
    failed: Put, event: str, is_found: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    failed(event=event)
    assert run("export", *BY_USER) == 0
    assert bool(exported(capsys)) is is_found


@pytest.mark.parametrize("whose", [BY_ORDER, BY_USER], ids=["order", "user"])
def test_what_is_no_longer_needed_is_erased_but_not_the_ledger(
    paid: Put,
    failed: Put,
    records: Table,
    error_log: Table,
    ledger: Table,
    whose: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    paid()
    failed(None, status="resolved", event=event_of(USER_ID))
    failed(requestId="refused", error="InvalidSignature", expiration=1, event=event_of(USER_ID))
    assert run("erase", *whose, "--yes") == 0
    assert (items(records), items(error_log), len(items(ledger))) == ([], [], 1)
    out = capsys.readouterr().out
    assert f"left   ledger BankApp#{ORDER} pay_bankapp_123: it dispatches the payment once" in out
    assert "Erased: 1 in the record table, 2 in the error log, 0 in the ledger" in out
    assert "a queue cannot be searched" in out
    assert USER_ID not in str(items(ledger))


@pytest.mark.parametrize(
    "needed",
    [
        {"dispatchedBy": None, "undispatchedSince": "2020-01-01T10:00:00.000Z"},
        # Healing has moved it to the error log.
        {"dispatchedBy": None},
        {"receivedAt": from_now(hours=-23)},
    ],
    ids=["undispatched", "failed", "recent"],
)
def test_a_record_that_is_still_needed_is_left(
    paid: Put, records: Table, needed: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    record = paid(**needed)
    assert run("erase", *BY_ORDER, "--yes") == 1
    assert items(records) == [record]
    assert f"left   record {ORDER} {record['deliveryId']}: its payment is not" in capsys.readouterr().out


def test_a_declined_record_is_erased_at_any_age(paid: Put, records: Table) -> None:
    paid(success=False, dispatchedBy=None, receivedAt=from_now())
    assert run("erase", *BY_ORDER, "--yes") == 0
    assert items(records) == []


@pytest.mark.parametrize(
    "needed",
    [{}, {"status": "redriven"}, {"status": "given up"}, {"status": "redriven", "expiration": 1}],
    ids=["open", "redriven", "given up", "a refusal that is redriven"],
)
def test_a_failure_that_is_not_resolved_is_left(
    failed: Put, error_log: Table, needed: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = failed(**needed)
    assert run("erase", *BY_ORDER, "--yes") == 1
    assert items(error_log) == [{name: _decimal(value) for name, value in failure.items()}]
    assert "it is not resolved" in capsys.readouterr().out


def _decimal(value: Any) -> Any:
    return Decimal(value) if isinstance(value, int) else value


@pytest.mark.parametrize(("answer", "is_erased"), [("y", True), ("n", False), ("", False)])
def test_an_erasure_is_confirmed(
    paid: Put, records: Table, monkeypatch: pytest.MonkeyPatch, answer: str, is_erased: bool
) -> None:
    paid()
    monkeypatch.setattr("builtins.input", lambda _: answer)
    assert run("erase", *BY_ORDER) == (0 if is_erased else 1)
    assert bool(items(records)) is not is_erased


def test_an_order_of_nobody_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", *BY_ORDER) == 0
    streams = capsys.readouterr()
    assert (streams.out, streams.err.splitlines()[0]) == (
        "",
        "0 in the record table, 0 in the error log, 0 in the ledger",
    )
