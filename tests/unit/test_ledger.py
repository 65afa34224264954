"""Each transition of the ledger, and each pair of attempts that meet in it."""

from datetime import timedelta
from typing import Any

import pytest

from callbacks.errors import DispatchInProgress, DispatchUndecided, PaymentConflict
from tests.unit.kit import BeforeCall, Json, Load, Table, TableOf, Task

LIFETIME = timedelta(seconds=2)
# A claim that has expired by the time anybody else looks.
EXPIRED = timedelta(minutes=-1)


class Ledger:
    """The module on an empty table, and what the records know."""

    def __init__(self, module: Task, table: Table, callback: Json) -> None:
        self.module = module
        self.recorded: set[str] = set()
        self._table = table
        self._callback = callback

    def attempt(self, delivery: str = "first", number: int = 1, **changes: Any) -> Any:
        callback = {**self._callback, "deliveryId": delivery, **changes}
        return self.module.Attempt("BankApp", callback, f"{delivery}-{number}")

    def claim(self, attempt: Any, lifetime: timedelta = LIFETIME, max_repeats: int = 1) -> str | None:
        dispatched_by: str | None = self.module.claim(attempt, lifetime, max_repeats, self.recorded.__contains__)
        return dispatched_by

    def dispatch(self, attempt: Any) -> None:
        assert self.claim(attempt) is None
        self.module.finish(attempt, "request-1")

    @property
    def item(self) -> Json:
        (item,) = self._table.scan()["Items"]
        found: Json = item
        return found


@pytest.fixture
def ledger(load: Load, table_of: TableOf, callback: Json) -> Ledger:
    return Ledger(load("callbacks.ledger"), table_of("PaymentLedgerTable"), callback)


# Transitions


def test_a_claim_names_its_delivery_and_counts_a_possible_dispatch(ledger: Ledger) -> None:
    assert ledger.claim(ledger.attempt()) is None
    item = ledger.item
    assert (item["orderKey"], item["paymentId"]) == ("BankApp#482500007436", "pay_bankapp_123")
    assert (item["claimedBy"], item["attemptId"], item["dispatches"]) == ("first", "first-1", 1)
    assert "dispatchedBy" not in item


def test_a_finished_claim_names_the_dispatch_for_good(ledger: Ledger) -> None:
    ledger.dispatch(ledger.attempt())
    item = ledger.item
    assert (item["dispatchedBy"], item["invokeRequestId"], item["dispatches"]) == ("first", "request-1", 1)
    assert "dispatchedAt" in item
    assert not {"claimedBy", "claimedUntil", "attemptId", "expiration"} & item.keys()


def test_a_released_claim_can_be_taken_again_and_counts_nothing(ledger: Ledger) -> None:
    first = ledger.attempt()
    ledger.claim(first)
    ledger.module.release(first)
    assert ledger.item["dispatches"] == 0
    assert not {"claimedBy", "claimedUntil", "attemptId", "dispatchedBy"} & ledger.item.keys()
    assert ledger.claim(ledger.attempt("second", amount="1.00", userId="another")) is None
    assert (ledger.item["claimedBy"], ledger.item["dispatches"]) == ("second", 1)


def test_only_the_attempt_that_holds_a_claim_releases_it(ledger: Ledger) -> None:
    first, second = ledger.attempt(), ledger.attempt("second")
    ledger.claim(first, EXPIRED)
    ledger.claim(second)
    ledger.module.release(first)
    assert (ledger.item["claimedBy"], ledger.item["dispatches"]) == ("second", 2)


def test_a_dispatch_is_recorded_even_after_its_claim_was_taken_over(ledger: Ledger) -> None:
    first, second = ledger.attempt(), ledger.attempt("second")
    ledger.claim(first, EXPIRED)
    ledger.claim(second)
    ledger.module.finish(first, "request-1")
    ledger.module.finish(second, "request-2")
    item = ledger.item
    assert (item["dispatchedBy"], item["invokeRequestId"], item["dispatches"]) == ("first", "request-1", 2)


# Another attempt finds the payment


def test_a_dispatched_payment_is_found_by_every_later_delivery(ledger: Ledger) -> None:
    ledger.dispatch(ledger.attempt())
    for delivery in ("first", "second"):
        assert ledger.claim(ledger.attempt(delivery, 2)) == "first"
    assert ledger.item["dispatches"] == 1


def test_a_claim_that_is_held_is_in_progress(ledger: Ledger) -> None:
    ledger.claim(ledger.attempt())
    for other in (ledger.attempt("second"), ledger.attempt("first", 2)):
        with pytest.raises(DispatchInProgress):
            ledger.claim(other)
    assert (ledger.item["claimedBy"], ledger.item["dispatches"]) == ("first", 1)


def test_a_claim_is_held_a_moment_longer_than_its_function_lives(ledger: Ledger) -> None:
    ledger.claim(ledger.attempt(), timedelta(0))
    with pytest.raises(DispatchInProgress):
        ledger.claim(ledger.attempt("second"))


def test_an_attempt_recognizes_its_own_claim_after_a_lost_answer(ledger: Ledger) -> None:
    attempt = ledger.attempt()
    assert ledger.claim(attempt) is None
    assert ledger.claim(attempt) is None
    assert ledger.item["dispatches"] == 1


def test_an_unfinished_dispatch_is_repeated_as_often_as_allowed(ledger: Ledger) -> None:
    for number in (1, 2, 3):
        assert ledger.claim(ledger.attempt(number=number), EXPIRED, max_repeats=2) is None
        assert ledger.item["dispatches"] == number
    with pytest.raises(DispatchUndecided, match=r"^The payment may have been dispatched 3 times$"):
        ledger.claim(ledger.attempt(number=4), max_repeats=2)
    assert ledger.item["dispatches"] == 3


def test_without_repeats_an_operator_decides_at_once(ledger: Ledger) -> None:
    ledger.claim(ledger.attempt(), EXPIRED)
    with pytest.raises(DispatchUndecided, match="1 times"):
        ledger.claim(ledger.attempt("second"), max_repeats=0)


def test_an_unfinished_dispatch_that_is_on_record_is_finished_and_not_repeated(ledger: Ledger) -> None:
    ledger.claim(ledger.attempt(), EXPIRED)
    ledger.recorded.add("first")
    assert ledger.claim(ledger.attempt("second")) == "first"
    assert (ledger.item["dispatchedBy"], ledger.item["dispatches"]) == ("first", 1)


def test_a_claim_that_is_released_meanwhile_is_in_progress(ledger: Ledger, before_call: BeforeCall) -> None:
    first = ledger.attempt()
    ledger.claim(first)
    before_call(ledger.module.Payments, "GetItem", lambda: ledger.module.release(first))
    with pytest.raises(DispatchInProgress):
        ledger.claim(ledger.attempt("second"))
    assert ledger.claim(ledger.attempt("second")) is None


def test_of_two_attempts_that_repeat_a_dispatch_one_is_in_progress(ledger: Ledger) -> None:
    ledger.claim(ledger.attempt(), EXPIRED)
    faster = ledger.attempt("second")

    def repeat_faster(_: str) -> bool:
        assert ledger.claim(faster) is None
        return False

    with pytest.raises(DispatchInProgress):
        ledger.module.claim(ledger.attempt("third"), LIFETIME, 1, repeat_faster)
    assert (ledger.item["claimedBy"], ledger.item["dispatches"]) == ("second", 2)


# What must agree


@pytest.mark.parametrize(
    "changes", [{"amount": "2339.01"}, {"userId": "another"}, {"amount": None, "userId": "another"}]
)
@pytest.mark.parametrize("is_finished", [True, False])
def test_another_user_or_amount_is_a_conflict(ledger: Ledger, changes: Json, *, is_finished: bool) -> None:
    if is_finished:
        ledger.dispatch(ledger.attempt())
    else:
        ledger.claim(ledger.attempt(), EXPIRED)
    with pytest.raises(PaymentConflict):
        ledger.claim(ledger.attempt("second", **changes))
    assert ledger.item["dispatches"] == 1


@pytest.mark.parametrize(
    ("first", "second"), [("2339.0", "2339"), ("2339.00", "2.339E3"), (None, "2339"), ("2339", None)]
)
def test_the_same_amount_in_any_spelling_or_none_agrees(ledger: Ledger, first: str | None, second: str | None) -> None:
    ledger.dispatch(ledger.attempt(amount=first))
    assert ledger.claim(ledger.attempt("second", amount=second)) == "first"


@pytest.mark.parametrize(
    ("changes", "standing"),
    [({}, "dispatched"), ({"amount": "1"}, "conflict"), ({"paymentId": "another"}, "new"), ({"orderId": "o"}, "new")],
)
def test_a_callback_learns_its_payments_standing(ledger: Ledger, callback: Json, changes: Json, standing: str) -> None:
    ledger.dispatch(ledger.attempt())
    assert ledger.module.standing_of("BankApp", {**callback, **changes}) == standing
    assert ledger.module.standing_of("Wallet", callback) == "new"


def test_a_payment_that_is_not_finished_is_new(ledger: Ledger, callback: Json) -> None:
    ledger.claim(ledger.attempt(), EXPIRED)
    assert ledger.module.standing_of("BankApp", callback) == "new"


def test_an_item_holds_no_personal_data(ledger: Ledger, callback: Json) -> None:
    ledger.dispatch(ledger.attempt())
    shown = str(ledger.item)
    assert [value for value in (callback["userId"], "2339", callback["body"], "203.0.113.7") if value in shown] == []


def test_equal_amounts_of_two_payments_have_different_digests(ledger: Ledger) -> None:
    first, second = ledger.attempt(), ledger.attempt(paymentId="another")
    assert first.amount_digest != second.amount_digest
    assert (
        ledger.attempt(orderId="1", paymentId="23").user_digest
        != ledger.attempt(orderId="12", paymentId="3").user_digest
    )
