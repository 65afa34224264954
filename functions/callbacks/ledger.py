"""The payment ledger: one permanent item per payment, by which a payment is dispatched once.

                   claim                   finish
    (unclaimed) ───────────> dispatching ──────────> dispatched
         ^                     │     ^ │
         │       release       │     │ │ repeat: the claim has expired, and nobody knows
         └─────────────────────┘     └─┘ whether Lambda accepted its invoke

An attempt claims the payment before it invokes process-paid, and finishes or releases the claim when it knows whether
Lambda accepted the invoke. If it is killed in between, or the answer is lost, the payment stays `dispatching`: it may
have been dispatched. Once the claim has expired, another attempt may repeat the dispatch, but only a few times in a
payment's life; then an operator decides.

Each transition is one conditional write. `dispatches` counts how often process-paid may have been invoked: a claim or
a repeat adds one, a release takes it back. An item never expires and holds no personal data: user and amount, in which
all deliveries of a payment must agree, are digests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any

from pynamodb.expressions.update import Action

from callbacks import config, model, times
from callbacks.errors import DispatchInProgress, DispatchUndecided, PaymentConflict
from callbacks.tables import Payment, bind, try_write

# A claim outlives the function that holds it, even if two functions' clocks differ by this much.
CLOCK_SKEW = timedelta(milliseconds=500)
IN_PROGRESS = "Another delivery of the payment is being dispatched"

Payments = bind(Payment, config.required("LEDGER_TABLE"))


class Standing(StrEnum):
    """What the ledger says about a delivery's payment."""

    NEW = "new"
    DISPATCHED = "dispatched"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a delivery to dispatch its payment; `attempt_id` tells it from the delivery's other attempts."""

    channel: str
    callback: dict[str, Any]
    attempt_id: str

    @property
    def delivery_id(self) -> str:
        return str(self.callback["deliveryId"])

    @property
    def user_digest(self) -> str:
        return self._digest(self.callback["userId"])

    @property
    def amount_digest(self) -> str | None:
        amount = model.canonical_amount(self.callback["amount"])
        return None if amount is None else self._digest(amount)

    def item(self) -> Payment:
        item: Payment = Payments(f"{self.channel}#{self.callback['orderId']}", self.callback["paymentId"])
        return item

    def agrees_with(self, payment: Payment) -> bool:
        """Return whether user and amount are the payment's; a missing one contradicts none."""
        users, amounts = {self.user_digest, payment.userDigest}, {self.amount_digest, payment.amountDigest}
        return len(users - {None}) <= 1 and len(amounts - {None}) <= 1

    def _digest(self, value: str) -> str:
        """Return a digest that differs between payments, so that equal amounts cannot be recognized."""
        identity = [self.channel, self.callback["orderId"], self.callback["paymentId"], value]
        return sha256("\n".join(f"{len(part)}:{part}" for part in identity).encode()).hexdigest()


def standing_of(channel: str, callback: dict[str, Any]) -> Standing:
    """Return whether the callback's payment is dispatched, and if so, whether the callback agrees with it."""
    attempt = Attempt(channel, callback, attempt_id="")
    payment = _read(attempt)
    if payment is None or payment.dispatchedBy is None:
        return Standing.NEW
    return Standing.DISPATCHED if attempt.agrees_with(payment) else Standing.CONFLICT


def claim(attempt: Attempt, lifetime: timedelta, max_repeats: int, is_recorded: Callable[[str], bool]) -> str | None:
    """Claim the payment for `lifetime`; return None, or the delivery that has dispatched it already.

    `is_recorded` tells whether a delivery's record shows its dispatch, even though its claim was never finished.
    Raises DispatchInProgress while another attempt holds the claim, PaymentConflict if the payment was or may have been
    dispatched with another user or amount, and DispatchUndecided if it may have been dispatched and must not be
    repeated.
    """
    if _write_claim(attempt, lifetime):
        return None
    payment = _read(attempt)
    if payment is not None and payment.attemptId == attempt.attempt_id:
        # The answer to this attempt's own write was lost.
        return None
    if payment is None or (payment.dispatchedBy is None and not _has_expired_claim(payment)):
        raise DispatchInProgress(IN_PROGRESS)
    if not attempt.agrees_with(payment):
        raise PaymentConflict("The payment was delivered before with another amount or user")
    if payment.dispatchedBy is not None:
        return payment.dispatchedBy
    if is_recorded(payment.claimedBy):
        _write_dispatch(attempt, payment.claimedBy)
        return payment.claimedBy
    if payment.dispatches > max_repeats:
        raise DispatchUndecided(f"The payment may have been dispatched {payment.dispatches:.0f} times")
    if not _write_repeat(attempt, payment, lifetime):
        raise DispatchInProgress(IN_PROGRESS)
    return None


def finish(attempt: Attempt, invoke_request_id: str) -> None:
    """Record that Lambda accepted the attempt's invoke, with the request id of its answer."""
    _write_dispatch(attempt, attempt.delivery_id, [Payment.invokeRequestId.set(invoke_request_id)])


def release(attempt: Attempt) -> None:
    """Give the claim back, because Lambda did not accept the attempt's invoke."""
    item = attempt.item()
    try_write(
        lambda: item.update(
            actions=[Payment.dispatches.add(-1), *_letting_go()],
            condition=Payment.attemptId == attempt.attempt_id,
        )
    )


def _has_expired_claim(payment: Payment) -> bool:
    return payment.claimedBy is not None and payment.claimedUntil <= times.iso(times.now())


def _write_claim(attempt: Attempt, lifetime: timedelta) -> bool:
    item = attempt.item()
    is_unclaimed = Payment.claimedBy.does_not_exist() & Payment.dispatchedBy.does_not_exist()
    digest = Payment.amountDigest
    amount = digest.remove() if attempt.amount_digest is None else digest.set(attempt.amount_digest)
    return try_write(
        lambda: item.update(
            actions=[*_holding(attempt, lifetime), Payment.userDigest.set(attempt.user_digest), amount],
            condition=is_unclaimed,
        )
    )


def _write_repeat(attempt: Attempt, payment: Payment, lifetime: timedelta) -> bool:
    item = attempt.item()
    return try_write(
        lambda: item.update(actions=_holding(attempt, lifetime), condition=Payment.attemptId == payment.attemptId)
    )


def _write_dispatch(attempt: Attempt, delivery_id: str, facts: Sequence[Action] = ()) -> None:
    item = attempt.item()
    try_write(
        lambda: item.update(
            actions=[
                Payment.dispatchedBy.set(delivery_id),
                Payment.dispatchedAt.set(times.iso(times.now())),
                *facts,
                *_letting_go(),
            ],
            # Even if another attempt has taken the claim over: this dispatch is a fact.
            condition=Payment.dispatchedBy.does_not_exist(),
        )
    )


def _letting_go() -> list[Action]:
    return [Payment.claimedBy.remove(), Payment.claimedUntil.remove(), Payment.attemptId.remove()]


def _holding(attempt: Attempt, lifetime: timedelta) -> list[Action]:
    return [
        Payment.claimedBy.set(attempt.delivery_id),
        Payment.claimedUntil.set(times.iso(times.now() + lifetime + CLOCK_SKEW)),
        Payment.attemptId.set(attempt.attempt_id),
        Payment.dispatches.add(1),
    ]


def _read(attempt: Attempt) -> Payment | None:
    item = attempt.item()
    try:
        payment: Payment = Payments.get(item.orderKey, item.paymentId, consistent_read=True)
    except Payments.DoesNotExist:
        return None
    return payment
