"""Every interleaving of two deliveries of a payment and a redrive of the first one, with up to two faults.

A schedule is an order of the actors' AWS calls, each with or without one of schedules.Fault. It covers the states of a
paid callback without checks (SaveCallbackRecord, InvokeProcessPaid, ConfirmDispatch, WriteErrorLog, ParkDelivery) and
of healing (TakeParked, CollectUndispatched, ClaimFailure, SettleFailure), with their retries. The redrive may begin as
soon as healing could find the first delivery, even while that is still being processed.

It does not cover the checks, the reports to Sentry and by e-mail, FindFailures (which only reads), a second redrive, or
a call so slow that too little time is left for the next one.

In the ordinary run a schedule has at most one fault; the exhaustive run adds those with two.
"""

import inspect
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import astuple
from functools import partial
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.signers import RequestSigner
from botocore.useragent import UserAgentString
from moto.core.models import botocore_stubber

from tests.outcomes import body_of
from tests.workflow import account
from tests.workflow.account import (
    CLAIM_PAYMENT,
    CONFIRM_DISPATCH,
    INVOKE,
    PROMISED,
    SAVE_ERROR,
    SAVE_RECORD,
    Handler,
    Workflow,
)
from tests.workflow.schedules import FIRST_FAULTS, START, STORES, Call, Explorer, Fault, Moment, Replayer, call_of

RECEIVED_AT = round(START.timestamp() * 1000)
FIRST = {"body": body_of("paid"), "requestId": "first", "receivedAt": RECEIVED_AT, "sourceIp": "203.0.113.7"}
# It arrives an hour later, so that its record is too young for healing.
SECOND = FIRST | {"requestId": "second", "receivedAt": RECEIVED_AT + 3_600_000}


@pytest.fixture
def replayer(
    account: None,  # noqa: ARG001
    loaded: tuple[dict[str, Handler], Any],
    waits: list[float],  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Replayer]:
    handlers = loaded[0]
    replayer = Replayer(handlers, botocore_stubber.process_request)
    monkeypatch.setattr(botocore_stubber, "process_request", replayer.process_request)
    (invoke,) = (handler for arn, handler in handlers.items() if "InvokeProcessPaid" in arn)
    monkeypatch.setattr(inspect.unwrap(invoke).__globals__["ledger"].times, "now", replayer.now)
    (save,) = (handler for arn, handler in handlers.items() if "SaveCallbackRecord" in arn)
    repeat_once = inspect.unwrap(save).__globals__["repeat_once"]
    monkeypatch.setitem(repeat_once.__globals__, "time", SimpleNamespace(sleep=lambda _: None))
    # No call leaves the process; these take half of its time.
    monkeypatch.setattr(RequestSigner, "sign", lambda *_, **__: None)
    monkeypatch.setattr(UserAgentString, "to_string", lambda _: "schedules")
    logging.disable()
    yield replayer
    logging.disable(logging.NOTSET)


def verify(moment: Moment) -> None:
    """Fail unless the promises are kept at a moment at which an actor has ended."""
    # No delivery is answered 200 before the payment is dispatched.
    assert 200 not in moment.statuses or moment.invoked
    assert moment.invoked <= min(1 + moment.uncertain, PROMISED)
    if moment.is_over:
        for payment in moment.payments:
            # The ledger counts each dispatch, and besides only attempts that a fault has broken.
            assert moment.invoked <= int(payment["dispatches"]["N"]) <= moment.invoked + moment.broken
        watched = {item["requestId"]["S"] for item in [*moment.records, *moment.failures] if is_watched(item)}
        watched |= {item["requestId"]["S"] for item in moment.parked}
        # If nothing at all could be stored, no delivery was answered 200, and the gateway delivers again.
        is_known = moment.records or moment.failures or moment.parked
        assert not is_known or watched or (moment.invoked and is_shown_as_dispatched(moment))
        for record in moment.records:
            assert "dispatchedBy" in record or record["requestId"]["S"] in watched


def is_shown_as_dispatched(moment: Moment) -> bool:
    """Return whether the ledger shows the dispatch, or the record of the delivery that has claimed the payment."""
    (payment,) = moment.payments
    claimed_by = payment.get("claimedBy")
    return "dispatchedBy" in payment or any(
        "dispatchedBy" in record for record in moment.records if record["deliveryId"] == claimed_by
    )


def is_watched(item: dict[str, Any]) -> bool:
    """Return whether healing will find a record or a failure, or an operator has to decide about it."""
    return "undispatchedSince" in item or "queue" in item or item.get("status") == {"S": "open"}


def run_all(explorer: Explorer) -> None:
    schedules = explorer.count(FIRST, SECOND)
    print(f"{schedules:,} schedules through {explorer.states:,} states")
    assert schedules > 1_000_000


def test_no_order_of_calls_breaks_a_promise(replayer: Replayer) -> None:
    run_all(Explorer(replayer, verify))


def test_no_order_breaks_a_promise_though_one_call_fails(replayer: Replayer) -> None:
    run_all(Explorer(replayer, verify, faults=1))


@pytest.mark.exhaustive
@pytest.mark.parametrize("fault", FIRST_FAULTS)
def test_no_order_breaks_a_promise_though_two_calls_fail(replayer: Replayer, fault: Fault) -> None:
    run_all(Explorer(replayer, verify, faults=2, first=[fault]))


@pytest.mark.parametrize("faults", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_calls_that_commute_need_one_order_only(replayer: Replayer, faults: int) -> None:
    ends = {}
    for prunes in (True, False):
        found: set[str] = set()
        explorer = Explorer(replayer, partial(keep, found), faults=faults, prunes=prunes)
        explorer.count(FIRST, SECOND)
        ends[prunes] = found
    assert len(ends[True]) > 10
    assert ends[True] == ends[False]


def keep(found: set[str], moment: Moment) -> None:
    """Keep how a schedule ends, without the times of calls, which follow from the order."""
    if moment.is_over:
        text = json.dumps(astuple(moment))
        found.add(re.sub(r"2020-01-01T00:0[0-9:.]*Z", "", text))


def shape(call: Call) -> tuple[str | None, ...]:
    """Return what a call has in common with the same call of another execution."""
    sent = call.sent
    state = call.description.partition(":")[0]
    return state, call.operation, call.table, sent.get("ConditionExpression"), sent.get("UpdateExpression")


def without_repetitions(calls: list[Call]) -> list[tuple[str | None, ...]]:
    """Return the calls' shapes; the clients' own second tries are no calls of their own."""
    return [call for call, _ in groupby(map(shape, calls))]


@pytest.mark.parametrize(
    "refused",
    [
        (),
        (SAVE_RECORD,),
        (CLAIM_PAYMENT,),
        (INVOKE,),
        (CONFIRM_DISPATCH,),
        (SAVE_RECORD, SAVE_ERROR),
        (INVOKE, SAVE_ERROR),
    ],
    ids=str,
)
def test_schedules_make_the_calls_of_the_workflows(
    workflow: Workflow,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    refused: tuple[account.Call, ...],
) -> None:
    made: list[Call] = []

    def process_request(sent: Any) -> Any:
        if any(service in sent.url for service in ("dynamodb", "sqs", INVOKE[0])):
            made.append(call_of(sent))
        return workflow.aws.process_request(sent)

    with monkeypatch.context() as patch:
        patch.setattr(botocore_stubber, "process_request", process_request)
        for call in refused:
            workflow.aws.refuse(call, "TooManyRequestsException", 429)
        workflow.run(FIRST)
        workflow.recover()
        workflow.run(SECOND)
        if refused:
            workflow.heal()
    of_schedules = [
        call for call in made if call.table in {*STORES, None} and "in FindFailures" not in call.description
    ]
    # The run looks for another page in the end.
    while "in CollectUndispatched" in of_schedules[-1].description:
        del of_schedules[-1]

    walk = Explorer(request.getfixturevalue("replayer"), verify, prunes=False).walk
    walked = walk(FIRST, SECOND, lambda call: any(all(text in call.description for text in each) for each in refused))
    assert without_repetitions(walked) == without_repetitions(of_schedules)
