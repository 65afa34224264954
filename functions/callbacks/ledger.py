"""The payment ledger: one permanent item per payment, by which a payment is dispatched once.

                   claim                   finish
    (unclaimed) ───────────> dispatching ──────────> dispatched ───┐
       ^ ^                     │     ^ │               │ ^         │ decide, then
       │ │       release       │     │ │ repeat,       │ └─────────┘ finish or release
       │ └─────────────────────┘     └─┘ decide        │
       │                       reopen                  │
       └───────────────────────────────────────────────┘

An attempt claims the payment before it invokes process-paid, and finishes or releases the claim when it knows whether
Lambda accepted the invoke. If it is killed in between, or the answer is lost, the payment stays `dispatching`: it may
have been dispatched. Once the claim has expired, another attempt may repeat the dispatch, but only a few times in a
payment's life; then an operator decides.

By an operator's decision an attempt claims a payment that is `dispatched`, or `dispatching` with an expired claim. With
`again` it must agree with the payment; with `accept` it contradicts the payment, which takes over its user and amount
when the claim is finished. `decisionIds` keeps the decision, so that it dispatches at most once. While the claim lasts,
the payment is in progress for every other attempt; afterwards it is `dispatched` or `dispatching` as before.

If Lambda reports that process-paid failed for good, the payment is reopened, provided that the failed request is that
of its latest dispatch. Then `failedRequestId` keeps the request, and a record that shows a dispatch proves nothing any
more: it may show the failed one.

Each transition is one conditional write. `dispatches` counts how often process-paid may have been invoked: every claim
adds one, a release and a reopening take it back. If the payment may have been dispatched before, it is `dispatching`
after that, with an expired claim. An item never expires and holds no personal data: user and amount, in which all
deliveries of a payment must agree, are digests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any

from pynamodb.expressions.update import Action as UpdateAction

from callbacks import config, model, times
from callbacks.decisions import Action
from callbacks.errors import DispatchInProgress, DispatchUncertain, DispatchUndecided, PaymentConflict
from callbacks.tables import Payment, bind, find, longest_call, try_update

# A claim outlives the function that holds it, even if two functions' clocks differ by this much.
CLOCK_SKEW = timedelta(milliseconds=500)
IN_PROGRESS = "Another delivery of the payment is being dispatched"

Payments = bind(Payment, config.required("LEDGER_TABLE"))
# What `release` takes at most: two writes.
RELEASE_SECONDS = 2 * longest_call(Payments)


class Standing(StrEnum):
    """What the ledger says about a delivery's payment."""

    NEW = "new"
    DISPATCHED = "dispatched"
    CONFLICT = "conflict"
    REVERSED = "reversed"


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
    def permit(self) -> dict[str, str] | None:
        """The operator's decision, as callbacks.decisions.permit describes it."""
        return self.callback.get("decision")

    @property
    def is_accepted(self) -> bool:
        return self.permit is not None and self.permit["action"] == Action.ACCEPT

    @property
    def user_digest(self) -> str:
        return self._digest(self.callback["userId"])

    @property
    def amount_digest(self) -> str | None:
        amount = model.canonical_amount(self.callback["amount"])
        return None if amount is None else self._digest(amount)

    @property
    def key(self) -> tuple[str, str]:
        return f"{self.channel}#{self.callback['orderId']}", self.callback["paymentId"]

    def item(self) -> Payment:
        item: Payment = Payments(*self.key)
        return item

    def agrees_with(self, payment: Payment) -> bool:
        """Return whether user and amount are the payment's; a missing one contradicts none."""
        users, amounts = {self.user_digest, payment.userDigest}, {self.amount_digest, payment.amountDigest}
        return len(users - {None}) <= 1 and len(amounts - {None}) <= 1

    def has_decided(self, payment: Payment) -> bool:
        """Return whether the attempt's decision was used for the payment before."""
        return self.permit is not None and self.permit["id"] in (payment.decisionIds or ())

    def decides_on(self, payment: Payment) -> bool:
        """Return whether the attempt's decision lets it claim the payment, although that is or may be dispatched."""
        # Accepting what is no conflict would dispatch a duplicate.
        is_meant = self.permit is not None and self.is_accepted != self.agrees_with(payment)
        return is_meant and not self.has_decided(payment)

    def _digest(self, value: str) -> str:
        """Return a digest that differs between payments, so that equal amounts cannot be recognized."""
        identity = [self.channel, self.callback["orderId"], self.callback["paymentId"], value]
        return sha256("\n".join(f"{len(part)}:{part}" for part in identity).encode()).hexdigest()


def standing_of(channel: str, callback: dict[str, Any]) -> Standing:
    """Return whether the callback's payment is dispatched, and if so, whether the callback agrees with it.

    A callback that declines a payment reverses it if that is or may be dispatched. To a conflict that an operator
    accepted, the payment is new, so that it is checked like any other.
    """
    attempt = Attempt(channel, callback, attempt_id="")
    payment = _read(attempt)
    if not callback["success"]:
        return Standing.NEW if payment is None or not _may_be_dispatched(payment) else Standing.REVERSED
    if payment is None or payment.dispatchedBy is None:
        return Standing.NEW
    if attempt.agrees_with(payment):
        return Standing.DISPATCHED
    return Standing.NEW if attempt.is_accepted else Standing.CONFLICT


def claim(
    attempt: Attempt,
    lifetime: timedelta,
    max_repeats: int,
    is_recorded: Callable[[str], bool],
    require_time: Callable[[float], None],
) -> str | None:
    """Claim the payment for `lifetime`; return None, or the delivery that has dispatched it already.

    `is_recorded` tells whether a delivery's record shows its dispatch, even though its claim was never finished.
    `require_time` raises an error if the function has fewer seconds left.
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
    if payment is None or _is_in_progress(payment):
        raise DispatchInProgress(IN_PROGRESS)
    if not attempt.decides_on(payment):
        dispatched_by = _find_dispatch(attempt, payment, is_recorded)
        if dispatched_by is not None:
            return dispatched_by
        if payment.dispatches > max_repeats:
            raise _undecided(payment)
    # A claim that could not be released would count as a possible dispatch.
    require_time(longest_call(Payments) + RELEASE_SECONDS)
    if not _take_over(attempt, payment, lifetime):
        raise DispatchInProgress(IN_PROGRESS)
    return None


def finish(attempt: Attempt, invoke_request_id: str) -> None:
    """Record that Lambda accepted the attempt's invoke, with the request id of its answer."""
    terms = _terms(attempt) if attempt.is_accepted else []
    _write_dispatch(attempt, attempt.delivery_id, [Payment.invokeRequestId.set(invoke_request_id), *terms])


def release(attempt: Attempt) -> None:
    """Give the claim back, because Lambda did not accept the attempt's invoke."""
    item = attempt.item()
    is_held = Payment.attemptId == attempt.attempt_id
    permit = attempt.permit
    unused = [Payment.dispatches.add(-1), *([Payment.decisionIds.delete({permit["id"]})] if permit else [])]
    leaves_no_doubt = (Payment.dispatches <= 1) | Payment.dispatchedBy.exists()
    is_released = try_update(item, [*unused, *_letting_go()], is_held & leaves_no_doubt)
    if not is_released:
        # The payment may have been dispatched before: it must not look unclaimed.
        expired = Payment.claimedUntil.set(times.iso(times.now()))
        try_update(item, [*unused, expired], is_held)


def find_other_payment(attempt: Attempt) -> str | None:
    """Return the id of another payment of the order that is or may be dispatched, or None.

    If two payments of an order look after they have been claimed, at least one of them finds the other.
    """
    order_key, payment_id = attempt.key
    may_be_dispatched = Payment.dispatchedBy.exists() | Payment.claimedBy.exists()
    payments = Payments.query(order_key, filter_condition=may_be_dispatched, consistent_read=True)
    return next((payment.paymentId for payment in payments if payment.paymentId != payment_id), None)


def find_other_order(attempt: Attempt) -> str | None:
    """Return the id of another order of the channel for which the payment id was used, or None.

    The index lags behind the table by a moment.
    """
    order_key, payment_id = attempt.key
    prefix = f"{attempt.channel}#"
    payments = Payments.byPaymentId.query(payment_id, Payment.orderKey.startswith(prefix))
    keys = (payment.orderKey for payment in payments)
    return next((key.removeprefix(prefix) for key in keys if key != order_key), None)


def find_dispatch(attempt: Attempt, request_id: str) -> str | None:
    """Return the delivery that was dispatched by this request to Lambda, or None if it is not the latest dispatch.

    Raises DispatchInProgress while a claim exists, and DispatchUncertain if the payment is dispatched, but its request
    is not known.
    """
    payment = _read(attempt)
    if payment is None or payment.failedRequestId == request_id:
        return None
    if payment.claimedBy is not None:
        raise DispatchInProgress(IN_PROGRESS)
    if payment.dispatchedBy is not None and payment.invokeRequestId is None:
        raise DispatchUncertain("The ledger does not know the request that dispatched the payment")
    return payment.dispatchedBy if payment.invokeRequestId == request_id else None


def reopen(attempt: Attempt, request_id: str) -> bool:
    """Undo the dispatch by this request, which failed for good; return False if it is not the latest any more."""
    item = attempt.item()
    is_latest = (Payment.invokeRequestId == request_id) & Payment.claimedBy.does_not_exist()
    undone: list[UpdateAction] = [
        Payment.dispatches.add(-1),
        Payment.failedRequestId.set(request_id),
        Payment.dispatchedBy.remove(),
        Payment.dispatchedAt.remove(),
        Payment.invokeRequestId.remove(),
    ]
    if try_update(item, undone, is_latest & (Payment.dispatches <= 1)):
        return True
    # An earlier dispatch may have succeeded: the payment must not look unclaimed.
    expired = [Payment.claimedBy.set(Payment.dispatchedBy), Payment.claimedUntil.set(times.iso(times.now()))]
    return try_update(item, [*undone, *expired], is_latest)


def _may_be_dispatched(payment: Payment) -> bool:
    """Return whether process-paid has or may have the payment; a reopened one it will have again."""
    return any((payment.dispatchedBy, payment.claimedBy, payment.failedRequestId))


def _is_in_progress(payment: Payment) -> bool:
    """Return whether a claim lasts, or was released a moment ago."""
    if payment.claimedBy is None:
        return payment.dispatchedBy is None
    return payment.claimedUntil > times.iso(times.now())


def _write_claim(attempt: Attempt, lifetime: timedelta) -> bool:
    is_unclaimed = Payment.claimedBy.does_not_exist() & Payment.dispatchedBy.does_not_exist()
    return try_update(attempt.item(), [*_holding(attempt, lifetime), *_terms(attempt)], is_unclaimed)


def _find_dispatch(attempt: Attempt, payment: Payment, is_recorded: Callable[[str], bool]) -> str | None:
    """Return the delivery that has dispatched the payment, or None if the claim has expired without a trace of one."""
    if attempt.has_decided(payment) and payment.claimedBy is not None:
        raise _undecided(payment)
    if not attempt.agrees_with(payment):
        raise PaymentConflict("The payment was delivered before with another amount or user")
    if payment.dispatchedBy is None and payment.failedRequestId is None and is_recorded(payment.claimedBy):
        _write_dispatch(attempt, payment.claimedBy)
        return payment.claimedBy
    return payment.dispatchedBy


def _take_over(attempt: Attempt, payment: Payment, lifetime: timedelta) -> bool:
    """Claim a payment that is or may be dispatched, unless another attempt has changed it since it was read."""
    holder, by = Payment.attemptId, Payment.dispatchedBy
    return try_update(
        attempt.item(),
        _holding(attempt, lifetime),
        (Payment.dispatches == payment.dispatches)
        & (holder == payment.attemptId if payment.attemptId else holder.does_not_exist())
        & (by == payment.dispatchedBy if payment.dispatchedBy else by.does_not_exist()),
    )


def _write_dispatch(attempt: Attempt, delivery_id: str, facts: Sequence[UpdateAction] = ()) -> None:
    try_update(
        attempt.item(),
        [
            Payment.dispatchedBy.set(delivery_id),
            Payment.dispatchedAt.set(times.iso(times.now())),
            *facts,
            *_letting_go(),
        ],
        # Even if another attempt has taken the claim over: this dispatch is a fact. An earlier one is only replaced by
        # the holder of a claim that an operator decided.
        Payment.dispatchedBy.does_not_exist() | (Payment.attemptId == attempt.attempt_id),
    )


def _letting_go() -> list[UpdateAction]:
    return [Payment.claimedBy.remove(), Payment.claimedUntil.remove(), Payment.attemptId.remove()]


def _terms(attempt: Attempt) -> list[UpdateAction]:
    """Return what makes the attempt's user and amount the payment's."""
    digest = Payment.amountDigest
    amount = digest.remove() if attempt.amount_digest is None else digest.set(attempt.amount_digest)
    return [Payment.userDigest.set(attempt.user_digest), amount]


def _holding(attempt: Attempt, lifetime: timedelta) -> list[UpdateAction]:
    permit = attempt.permit
    return [
        Payment.claimedBy.set(attempt.delivery_id),
        Payment.claimedUntil.set(times.iso(times.now() + lifetime + CLOCK_SKEW)),
        Payment.attemptId.set(attempt.attempt_id),
        Payment.dispatches.add(1),
        *([Payment.decisionIds.add({permit["id"]})] if permit else []),
    ]


def _undecided(payment: Payment) -> DispatchUndecided:
    return DispatchUndecided(f"The payment may have been dispatched {payment.dispatches:.0f} times")


def _read(attempt: Attempt) -> Payment | None:
    return find(Payments, *attempt.key)
