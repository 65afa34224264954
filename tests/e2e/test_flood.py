"""A day of abuse in less than a minute: genuine callbacks are paid in time, and operators are told little of the rest.

Signatures are only observed, so that what strangers send gets as far as it ever can.
"""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from statistics import median

import pytest

from callbacks.shown import show
from local.stack import CONCURRENCY
from tests.e2e.conftest import GUARDED, TOTAL, Answer, Guarded, Headers, MakeBody, running, signed, wait_until
from tests.e2e.test_attacks import OTHER_KEY

SECONDS = 30
# Each stranger waits for an answer before the next request, so strangers precede every genuine callback.
STRANGERS = 10
# docs/security.md states it.
PAID_WITHIN_SECONDS = 10

LINK = "evil.example"
LETTER = f"pay now at https://{LINK}/"
REFUSED, UNKNOWN, MISMATCH, CONFLICT = "InvalidCallback", "OrderNotFound", "PaymentMismatch", "PaymentConflict"


@dataclass(frozen=True)
class Abuse:
    """A stranger's request, the status that it is answered, and the failures one of which it becomes, if any."""

    body: str
    status: int = 500
    failures: tuple[str, ...] = ()
    headers: Headers = ()
    method: str = "POST"
    source: str = "127.0.0.1"


@pytest.fixture
def flooded() -> Iterator[Guarded]:
    with running(Guarded, GUARDED | {"SignatureMode": "warn"}) as flooded:
        yield flooded


def abuses(make_body: MakeBody, victim: str, genuine: str, replay: tuple[str, Headers]) -> list[Abuse]:
    """Return a request of each sort; the orders `victim` and `genuine` exist, the payment of `replay` is dispatched."""

    def on(order: str, **fields: object) -> str:
        return make_body(**{"orderId": order, "paymentId": LETTER, "userId": LETTER, "message": LETTER} | fields)

    wrong = Abuse(on(victim), failures=(MISMATCH,))
    invalid = Abuse(on(LETTER, success=LETTER), failures=(REFUSED,))
    headers = signed(wrong.body, OTHER_KEY)
    dispatched = replay[0]
    return [
        # Forged and unsigned.
        wrong,
        replace(wrong, headers=headers),
        replace(wrong, body=on(victim, amount=1)),
        Abuse(on(f"{LETTER}{random.random()}"), failures=(UNKNOWN,)),  # noqa: S311 any order will do
        Abuse(on(LETTER), failures=(UNKNOWN,), headers=headers),
        # Malformed and oversize.
        invalid,
        replace(invalid, body=invalid.body[:-1]),
        replace(invalid, body=invalid.body.ljust(32 * 1024)),
        replace(invalid, body="\0" * 8192),
        replace(invalid, body="[" * 8000),
        # Replayed, and guesses at the amount and the user of a payment: `genuine` may be dispatched or not.
        Abuse(dispatched, 200, headers=replay[1]),
        Abuse(dispatched.replace(str(TOTAL), "1"), 200, (CONFLICT,)),
        Abuse(dispatched.replace('"userId": "', f'"userId": "{LETTER}'), 200, (CONFLICT,)),
        Abuse(genuine.replace(str(TOTAL), "1"), 0, (MISMATCH, CONFLICT)),
        # Headers.
        replace(wrong, headers=[*headers.items(), *headers.items()]),
        replace(wrong, headers={name.upper(): value for name, value in headers.items()}),
        replace(wrong, headers=dict.fromkeys(headers, "application/json") | {"webhook-id": "\xe0\xb8\x81".encode()}),
        replace(wrong, headers=headers | {"webhook-signature": "v1," + "a" * 9000, "User-Agent": LETTER * 300}),
        # The request.
        replace(wrong, headers=headers | {"Content-Type": "text/plain"}, status=415, failures=()),
        replace(wrong, method="DELETE", status=404, failures=()),
        replace(wrong, source="127.0.0.2", status=403, failures=()),
    ]


def test_genuine_callbacks_are_paid_once_and_in_time_on_a_day_of_abuse(
    flooded: Guarded, make_body: MakeBody, order_id: str
) -> None:
    genuine = [make_body(orderId=f"{order_id}-{number}", paymentId=f"pay-{number}") for number in range(SECONDS)]
    for order in [order_id, "victim", *(f"{order_id}-{number}" for number in range(SECONDS))]:
        flooded.put_order(order)
    replay = make_body(), signed(make_body())
    assert flooded.send(*replay).status == 200
    begun = time.monotonic()

    def pay(number: int) -> tuple[Answer, float]:
        """Deliver a genuine callback in its second; return the answer and the seconds until it was there."""
        due = begun + number
        time.sleep(max(0, due - time.monotonic()))
        answer = flooded.send(genuine[number], signed(genuine[number]))
        return answer, time.monotonic() - due

    def abuse(stranger: int) -> list[tuple[Abuse, Answer]]:
        answers: list[tuple[Abuse, Answer]] = []
        for number in count(2 * stranger):
            second = int(time.monotonic() - begun)
            if second >= SECONDS:
                return answers
            choice = abuses(make_body, "victim", genuine[second], replay)
            sent = choice[number % len(choice)]
            answers.append((sent, flooded.send(sent.body, sent.headers, sent.method, source=sent.source)))
        raise AssertionError

    with ThreadPoolExecutor(STRANGERS) as strangers, ThreadPoolExecutor(SECONDS) as bank:
        abused = strangers.map(abuse, range(STRANGERS))
        paid = list(bank.map(pay, range(SECONDS)))
        answered = [one for answers in abused for one in answers]

    delays = [seconds for _, seconds in paid]
    print(
        f"\n{SECONDS} genuine callbacks among {len(answered)} requests of strangers: "
        f"paid after {median(delays):.1f} s in the median, {max(delays):.1f} s at most"
    )
    assert [(answer.status, answer.body.get("duplicate")) for answer, _ in paid] == [(200, False)] * SECONDS
    assert max(delays) < PAID_WITHIN_SECONDS
    assert sorted(flooded.payloads_of("")) == sorted([replay[0], *genuine])

    failed = sum(1 for sent, _ in answered if sent.failures)
    # Conflicts are reported by executions of their own.
    wait_until(lambda: len(flooded.server.views.errors()) >= failed, PAID_WITHIN_SECONDS)
    failures = {failure["requestId"]: failure["error"] for failure in flooded.server.views.errors()}
    assert len(failures) == failed
    for sent, answer in answered:
        failure = failures.get(answer.request_id)
        assert failure in (sent.failures or (None,))
        assert answer.status == (sent.status or (200 if failure == CONFLICT else 500))

    kinds = {REFUSED, UNKNOWN, MISMATCH, CONFLICT}
    assert set(failures.values()) == kinds
    # A conflict is answered like a duplicate, whose failed check is reported.
    reported = sorted({*kinds, "CheckWarning"})
    mails = flooded.server.views.mails()
    assert sorted(mail["Subject"] for mail in mails) == [f"[local] BankApp callback: {kind}" for kind in reported]
    events = flooded.server.views.sentry()
    assert len(reported) <= len(events) <= CONCURRENCY * len(reported)
    told = [mail["BodyText"] + mail["BodyHtml"] for mail in mails] + [str(event) for event in events]
    assert not [text for text in told if LINK in text or "pay now" in text]
    assert show(LETTER) in mails[0]["BodyText"]
