"""Genuine callbacks are paid during a flood of forged ones."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from tests.e2e.conftest import ANSWER_SECONDS, GENUINE, Answer, Guarded, MakeBody, signed

COUNT = 20
FORGED = 10 * COUNT
# Each forger waits for its answer before it sends the next callback, so forgeries precede every genuine callback.
FORGERS = 10


def deliver(guarded: Guarded, body: str) -> tuple[Answer, float]:
    """Send a callback as the bank does; return the answer and the seconds it took."""
    started = time.monotonic()
    answer = guarded.send(body, signed(body))
    return answer, time.monotonic() - started


def test_genuine_callbacks_are_paid_once_among_ten_times_as_many_forged(
    guarded: Guarded, make_body: MakeBody, order_id: str
) -> None:
    def bodies(kind: str, count: int) -> list[str]:
        orders = [f"{kind}-{order_id}-{number}" for number in range(count)]
        for order in orders:
            guarded.put_order(order)
        return [make_body(orderId=order, paymentId=f"pay-{order}") for order in orders]

    alone, besieged = bodies(f"{GENUINE}alone", COUNT), bodies(f"{GENUINE}besieged", COUNT)
    forged = bodies("forged", FORGED)
    in_peace = [deliver(guarded, body) for body in alone]
    with ThreadPoolExecutor(FORGERS) as forgers:
        other = signed("{}")
        refusals = [forgers.submit(guarded.send, body, other | {"webhook-id": uuid.uuid4().hex}) for body in forged]
        under_attack = [deliver(guarded, body) for body in besieged]
        refused_meanwhile = sum(refusal.done() for refusal in refusals)
        refused = [refusal.result() for refusal in refusals]

    medians = [median(seconds for _, seconds in answers) for answers in (in_peace, under_attack)]
    print(
        f"\n{COUNT} genuine callbacks: median {medians[0]:.2f} s alone, {medians[1]:.2f} s among "
        f"{refused_meanwhile} forged ones ({medians[1] / medians[0]:.1f} times)"
    )
    for answer, seconds in in_peace + under_attack:
        assert (answer.status, answer.body["duplicate"]) == (200, False)
        assert seconds < ANSWER_SECONDS
    assert {answer.status for answer in refused} == {500}
    dispatched = guarded.payloads_of(GENUINE)
    assert sorted(body for body in dispatched if order_id in body) == sorted(alone + besieged)
    assert guarded.payloads_of("forged-") == []
    assert not any(record["orderId"].startswith("forged-") for record in guarded.server.views.records())
