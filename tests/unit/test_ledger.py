"""Each transition of the ledger, and each pair of attempts that meet in it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from callbacks.errors import DispatchInProgress, DispatchUndecided, PaymentConflict
from tests.outcomes import body_of
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
        dispatched_by: str | None = self.module.claim(
            attempt, lifetime, max_repeats, self.recorded.__contains__, lambda _: None
        )
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


def test_a_reopened_payment_can_be_claimed_again_and_counts_nothing(ledger: Ledger) -> None:
    first = ledger.attempt()
    ledger.dispatch(first)
    assert ledger.module.reopen(first, "request-1")
    assert (ledger.item["dispatches"], ledger.item["failedRequestId"]) == (0, "request-1")
    assert not {"claimedBy", "dispatchedBy", "dispatchedAt", "invokeRequestId"} & ledger.item.keys()
    assert ledger.claim(ledger.attempt("second")) is None
    assert (ledger.item["claimedBy"], ledger.item["dispatches"]) == ("second", 1)


def test_only_the_request_of_the_latest_dispatch_reopens_a_payment(ledger: Ledger) -> None:
    first = ledger.attempt()
    ledger.dispatch(first)
    before = ledger.item
    assert not ledger.module.reopen(first, "request-0")
    assert ledger.item == before


def test_a_payment_that_an_earlier_attempt_may_have_dispatched_is_repeated(ledger: Ledger) -> None:
    ledger.claim(ledger.attempt(), EXPIRED)
    ledger.dispatch(ledger.attempt(number=2))
    assert ledger.module.reopen(ledger.attempt(), "request-1")
    assert (ledger.item["claimedBy"], ledger.item["dispatches"]) == ("first", 1)
    with pytest.raises(PaymentConflict):
        ledger.claim(ledger.attempt("conflict", amount="1.00"))
    with pytest.raises(DispatchUndecided, match="1 times"):
        ledger.claim(ledger.attempt(number=3), max_repeats=0)
    assert ledger.claim(ledger.attempt(number=3)) is None
    assert ledger.item["dispatches"] == 2


def test_the_record_of_a_dispatch_that_failed_does_not_show_the_next_one(ledger: Ledger) -> None:
    first = ledger.attempt()
    ledger.dispatch(first)
    ledger.recorded.add("first")
    ledger.module.reopen(first, "request-1")
    ledger.claim(ledger.attempt(number=2), EXPIRED)
    assert ledger.claim(ledger.attempt(number=3)) is None
    assert ledger.item["dispatches"] == 2


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
        ledger.module.claim(ledger.attempt("third"), LIFETIME, 1, repeat_faster, lambda _: None)
    assert (ledger.item["claimedBy"], ledger.item["dispatches"]) == ("second", 2)


def test_a_refused_repeat_leaves_a_payment_that_may_be_dispatched(ledger: Ledger) -> None:
    ledger.claim(ledger.attempt(), EXPIRED)
    second = ledger.attempt("second")
    ledger.claim(second)
    ledger.module.release(second)
    assert ledger.item["dispatches"] == 1
    with pytest.raises(PaymentConflict):
        ledger.claim(ledger.attempt("third", amount="1"))
    assert ledger.claim(ledger.attempt("third")) is None
    assert ledger.item["dispatches"] == 2


# An operator's decision


AGAIN, ACCEPT = {"id": "decision-1", "action": "again"}, {"id": "decision-1", "action": "accept"}
OTHER = {"amount": "1"}


def leave_dispatched(ledger: Ledger) -> None:
    ledger.dispatch(ledger.attempt())


def leave_undecided(ledger: Ledger) -> None:
    ledger.claim(ledger.attempt(), EXPIRED)
    ledger.claim(ledger.attempt("second"), EXPIRED)
    with pytest.raises(DispatchUndecided):
        ledger.claim(ledger.attempt("third"))


LEAVE = pytest.mark.parametrize("leave", [leave_dispatched, leave_undecided])
DECIDE = pytest.mark.parametrize("decision", [AGAIN, {**ACCEPT, **OTHER}], ids=["again", "accept"])


def decided(ledger: Ledger, decision: Json, number: int = 1) -> Any:
    """Return an attempt with a permit; whatever else `decision` has changes the callback."""
    permit = {name: decision[name] for name in ("id", "action")}
    changes = {name: value for name, value in decision.items() if name not in permit}
    return ledger.attempt("decided", number, decision=permit, **changes)


@LEAVE
@DECIDE
def test_a_decision_dispatches_a_payment_once_more(
    ledger: Ledger, leave: Callable[[Ledger], None], decision: Json
) -> None:
    leave(ledger)
    before = ledger.item["dispatches"]
    attempt = decided(ledger, decision)
    assert ledger.claim(attempt) is None
    assert (ledger.item["claimedBy"], ledger.item["dispatches"]) == ("decided", before + 1)
    ledger.module.finish(attempt, "request-2")
    item = ledger.item
    assert (item["dispatchedBy"], item["invokeRequestId"], item["dispatches"]) == ("decided", "request-2", before + 1)
    assert item["decisionIds"] == {"decision-1"}
    assert not {"claimedBy", "claimedUntil", "attemptId"} & item.keys()


@LEAVE
@DECIDE
def test_a_used_decision_makes_an_ordinary_delivery(
    ledger: Ledger, leave: Callable[[Ledger], None], decision: Json
) -> None:
    leave(ledger)
    ledger.dispatch(decided(ledger, decision))
    before = ledger.item
    assert ledger.claim(decided(ledger, decision, 2)) == "decided"
    assert ledger.item == before


@LEAVE
@DECIDE
def test_a_decision_with_an_unknown_outcome_is_not_used_again(
    ledger: Ledger, leave: Callable[[Ledger], None], decision: Json
) -> None:
    leave(ledger)
    ledger.claim(decided(ledger, decision), EXPIRED)
    before = ledger.item
    with pytest.raises(
        DispatchUndecided, match=rf"^The payment may have been dispatched {before['dispatches']} times$"
    ):
        ledger.claim(decided(ledger, decision, 2))
    assert ledger.item == before
    assert ledger.claim(decided(ledger, {**decision, "id": "decision-2"}, 3)) is None


@LEAVE
@DECIDE
def test_an_unused_decision_is_released_with_its_claim(
    ledger: Ledger, leave: Callable[[Ledger], None], decision: Json
) -> None:
    leave(ledger)
    before = ledger.item
    attempt = decided(ledger, decision)
    ledger.claim(attempt)
    ledger.module.release(attempt)
    ignored = {"claimedBy", "claimedUntil", "attemptId"}
    after = ledger.item
    assert {name: after[name] for name in after.keys() - ignored} == {n: before[n] for n in before.keys() - ignored}
    assert ("claimedBy" in after) == ("claimedBy" in before)
    assert ledger.claim(decided(ledger, decision, 2)) is None


@DECIDE
def test_a_decision_leaves_a_dispatch_in_progress_alone(ledger: Ledger, decision: Json) -> None:
    ledger.claim(ledger.attempt())
    with pytest.raises(DispatchInProgress):
        ledger.claim(decided(ledger, decision))
    assert ledger.item["dispatches"] == 1


@DECIDE
def test_while_a_decision_is_carried_out_the_payment_is_in_progress(ledger: Ledger, decision: Json) -> None:
    leave_dispatched(ledger)
    ledger.claim(decided(ledger, decision))
    for other in (ledger.attempt("second"), decided(ledger, {**decision, "id": "decision-2"}, 2)):
        with pytest.raises(DispatchInProgress):
            ledger.claim(other)


def test_a_dispatched_payment_stays_so_if_a_decision_is_not_finished(ledger: Ledger) -> None:
    leave_dispatched(ledger)
    ledger.claim(decided(ledger, AGAIN), EXPIRED)
    assert ledger.claim(ledger.attempt("second")) == "first"


@LEAVE
def test_of_two_decisions_at_the_same_time_one_is_in_progress(
    ledger: Ledger, before_call: BeforeCall, leave: Callable[[Ledger], None]
) -> None:
    leave(ledger)
    before = ledger.item["dispatches"]
    update = ledger.module.Payments

    def decide_faster() -> None:
        assert ledger.claim(decided(ledger, {**AGAIN, "id": "decision-2"}, 2)) is None

    # The first UpdateItem fails, because the payment is claimed or dispatched; the second takes it over.
    before_call(update, "GetItem", lambda: before_call(update, "UpdateItem", decide_faster))
    with pytest.raises(DispatchInProgress):
        ledger.claim(decided(ledger, AGAIN))
    assert (ledger.item["dispatches"], ledger.item["decisionIds"]) == (before + 1, {"decision-2"})


@DECIDE
def test_a_decision_on_a_payment_that_was_never_claimed_counts_once(ledger: Ledger, decision: Json) -> None:
    assert ledger.claim(decided(ledger, decision), EXPIRED) is None
    with pytest.raises(DispatchUndecided, match="1 times"):
        ledger.claim(decided(ledger, decision, 2))


def test_again_does_not_dispatch_a_conflict(ledger: Ledger) -> None:
    leave_dispatched(ledger)
    with pytest.raises(PaymentConflict):
        ledger.claim(decided(ledger, {**AGAIN, **OTHER}))
    assert ledger.item["dispatches"] == 1


def test_accept_does_not_dispatch_a_duplicate(ledger: Ledger) -> None:
    leave_dispatched(ledger)
    assert ledger.claim(decided(ledger, ACCEPT)) == "first"
    assert ledger.item["dispatches"] == 1


@pytest.mark.parametrize("amount", ["1", None])
def test_an_accepted_delivery_is_what_the_others_must_agree_with(ledger: Ledger, amount: str | None) -> None:
    leave_dispatched(ledger)
    accepted: Json = {"amount": amount, "userId": "another"}
    ledger.dispatch(decided(ledger, {**ACCEPT, **accepted}))
    assert ledger.claim(ledger.attempt("second", **accepted)) == "decided"
    with pytest.raises(PaymentConflict):
        ledger.claim(ledger.attempt("third"))


def test_an_accepted_delivery_that_is_not_finished_changes_no_terms(ledger: Ledger) -> None:
    leave_dispatched(ledger)
    ledger.claim(decided(ledger, {**ACCEPT, **OTHER}), EXPIRED)
    assert ledger.claim(ledger.attempt("second")) == "first"


@pytest.mark.parametrize(
    ("decision", "standing"),
    [(AGAIN, "dispatched"), (ACCEPT, "dispatched"), ({**AGAIN, **OTHER}, "conflict"), ({**ACCEPT, **OTHER}, "new")],
)
def test_only_an_accepted_conflict_is_checked_as_a_new_payment(ledger: Ledger, decision: Json, standing: str) -> None:
    leave_dispatched(ledger)
    assert ledger.module.standing_of("BankApp", decided(ledger, decision).callback) == standing


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


def test_a_decline_reverses_a_payment_that_is_or_may_be_dispatched(ledger: Ledger, callback: Json) -> None:
    declined = {**callback, "success": False}
    assert ledger.module.standing_of("BankApp", declined) == "new"
    ledger.claim(ledger.attempt())
    assert ledger.module.standing_of("BankApp", declined) == "reversed"
    ledger.module.finish(ledger.attempt(), "request-1")
    assert ledger.module.standing_of("BankApp", declined) == "reversed"


def test_a_payment_that_is_not_finished_is_new(ledger: Ledger, callback: Json) -> None:
    ledger.claim(ledger.attempt(), EXPIRED)
    assert ledger.module.standing_of("BankApp", callback) == "new"


def test_an_item_holds_no_personal_data(ledger: Ledger, callback: Json) -> None:
    ledger.dispatch(ledger.attempt())
    shown = str(ledger.item)
    assert [value for value in (callback["userId"], "2339", body_of("paid")) if value in shown] == []


def test_equal_amounts_of_two_payments_have_different_digests(ledger: Ledger) -> None:
    first, second = ledger.attempt(), ledger.attempt(paymentId="another")
    assert first.amount_digest != second.amount_digest
    assert (
        ledger.attempt(orderId="1", paymentId="23").user_digest
        != ledger.attempt(orderId="12", paymentId="3").user_digest
    )
