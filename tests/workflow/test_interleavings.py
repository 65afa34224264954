"""Payments in parallel, and in random order among faults: each is dispatched once, each delivery recorded."""

import itertools
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from moto.dynamodb.models import dynamodb_backends
from moto.stepfunctions.parser.asl.component.common.retry import retrier_decl

from callbacks.decisions import DISPATCHING, Action
from callbacks.queues import AUTOMATIC, lane_of
from tests.workflow.account import (
    CLAIM_PAYMENT,
    CONFIRM_DISPATCH,
    FINISH_CLAIM,
    INVOKE,
    PROMISED,
    SAVE_ERROR,
    SAVE_RECORD,
    Call,
    Workflow,
    kill_process,
)
from tests.workflow.engine import ACCOUNT, LEDGER_TABLE, REGION, Execution

CONFLICT_ERROR = "The payment was delivered before with another amount or user"
INVALID_ERROR = "userId: is missing"

READ_FAILURE: Call = ("in ClaimFailure:", "GetItem")


def body(order: str, payment: str, **fields: Any) -> str:
    callback = {"orderId": order, "paymentId": payment, "userId": "u", "success": True, "amount": 100} | fields
    return json.dumps({field: value for field, value in callback.items() if value is not None})


def paid_with(payload: bytes) -> tuple[str, str]:
    callback = json.loads(payload)
    return callback["orderId"], callback["paymentId"]


def as_received(body: str) -> dict[str, Any]:
    """Return a delivery of a body with a request id of its own, as the API's template makes it."""
    return {"body": body, "requestId": str(uuid4()), "receivedAt": 1795341600000}


def test_deliveries_in_parallel_are_each_treated_as_if_alone(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A duplicate really has to wait for the dispatch in progress, and longer on a slow machine.
    monkeypatch.setattr(retrier_decl, "time", SimpleNamespace(sleep=lambda seconds: time.sleep(2 * seconds)))
    kinds: dict[str, list[dict[str, Any]]] = {
        "paid": [{}],
        "declined": [{"success": False}],
        "duplicate": [{}, {}],
        "conflict": [{"amount": 100}, {"amount": 101}],
        "invalid": [{"userId": None}],
    }
    # The two deliveries of a duplicate and of a conflict are neighbours, so that they overlap.
    bodies = [
        (kind, f"{kind}-{number}", body(f"{kind}-{number}", "1", **fields))
        for number in range(10)
        for kind, deliveries in kinds.items()
        for fields in deliveries
    ]
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda sent: workflow.run(as_received(sent[2])).answer, bodies))

    answered: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
    dispatched = []
    for (kind, order, sent), (status, answer) in zip(bodies, answers, strict=True):
        seen = (answer["processing"], answer["duplicate"]) if status == 200 else (answer["error"],)
        # Depends on whether the first delivery was dispatched before the second was recorded.
        is_conflict = kind == "conflict" and (status, *seen) in {(200, True, True), (500, CONFLICT_ERROR)}
        answered[order].append(("conflict",) if is_conflict else (status, *seen))
        if kind in {"paid", "conflict", "duplicate"} and seen == (True, False):
            dispatched.append(sent.encode())
    expected = {
        "paid": [(200, True, False)],
        "declined": [(200, False, False)],
        "duplicate": [(200, True, False), (200, True, True)],
        "conflict": [("conflict",), (200, True, False)],
        "invalid": [(500, INVALID_ERROR)],
    }
    assert {order: sorted(seen, key=str) for order, seen in answered.items()} == {
        f"{kind}-{number}": expected[kind] for number in range(10) for kind in kinds
    }
    assert len(dispatched) == 30
    assert sorted(payload for _, _, payload in workflow.dispatched) == sorted(dispatched)
    assert Counter(record["body"] for record in workflow.records) == Counter(
        sent for kind, _, sent in bodies if kind != "invalid"
    )
    assert Counter((row["orderId"].partition("-")[0], row["error"]) for row in workflow.errors) == {
        ("conflict", "PaymentConflict"): 10,
        ("invalid", "InvalidCallback"): 10,
    }


def test_two_healing_runs_that_read_the_same_failure_redrive_it_once(workflow: Workflow) -> None:
    workflow.aws.refuse(INVOKE, "ServiceException", 500, times=2)
    workflow.run({"body": body("1", "a")})
    faster: list[Execution] = []
    workflow.aws.run_after(READ_FAILURE, lambda: faster.append(workflow.heal()))
    healing = workflow.heal()

    assert [result["status"] for run in (*faster, healing) for result in run.output["results"]] == [
        "resolved",
        "skipped",
    ]
    assert len(workflow.dispatched) == 1


Break = Callable[[Workflow], object]
Payment = tuple[str, str]


def throttled(call: Call) -> Break:
    return lambda workflow: workflow.aws.refuse(call, "ProvisionedThroughputExceededException")


def answer_lost(call: Call) -> Break:
    return lambda workflow: workflow.aws.lose_answer(call, times=1)


def every_answer_lost(call: Call) -> Break:
    return lambda workflow: workflow.aws.lose_answer(call)


def killed_after(call: Call) -> Break:
    return lambda workflow: workflow.aws.run_after(call, kill_process, times=99)


def lost_after(state: str) -> Break:
    return lambda workflow: workflow.functions.run_after(state, workflow.abort_callback)


def answer_of_state_lost(workflow: Workflow) -> None:
    workflow.functions.lose_answer("InvokeProcessPaid")


def refused(workflow: Workflow) -> None:
    workflow.aws.refuse(INVOKE, "TooManyRequestsException", 429)


def refused_and_not_logged(workflow: Workflow) -> None:
    refused(workflow)
    workflow.aws.refuse(SAVE_ERROR, "ProvisionedThroughputExceededException")


def not_recorded(workflow: Workflow) -> None:
    throttled(FINISH_CLAIM)(workflow)
    throttled(CONFIRM_DISPATCH)(workflow)


# After these the ledger or the record knows how the attempt ended.
FAULTS: dict[str, Break] = {
    "none": lambda _: None,
    "record throttled": throttled(SAVE_RECORD),
    "claim throttled": throttled(CLAIM_PAYMENT),
    "answer to the claim lost": answer_lost(CLAIM_PAYMENT),
    "invoke refused": refused,
    "answer to the end of the claim lost": answer_lost(FINISH_CLAIM),
    "confirmation throttled": throttled(CONFIRM_DISPATCH),
    "invoke refused, error log throttled": refused_and_not_logged,
    "answer of InvokeProcessPaid lost": answer_of_state_lost,
    "killed after the record": killed_after(SAVE_RECORD),
    "killed after the end of the claim": killed_after(FINISH_CLAIM),
}
# After these nobody knows whether the payment was dispatched, or not until the record is confirmed.
UNKNOWNS: dict[str, Break] = {
    "killed after the claim": killed_after(CLAIM_PAYMENT),
    "killed after the invoke": killed_after(INVOKE),
    "answer to the invoke lost": every_answer_lost(INVOKE),
    "end of the claim throttled": throttled(FINISH_CLAIM),
    "dispatch not recorded": not_recorded,
}
LOSSES = {f"lost after {state}": lost_after(state) for state in ("SaveCallbackRecord", "InvokeProcessPaid")}
BREAKS = FAULTS | UNKNOWNS | LOSSES

# What happens while a call is waiting for its late answer.
READ_LEDGER: Call = ("in InvokeProcessPaid:", "GetItem", f'"TableName": "{LEDGER_TABLE}"')
LATE = {
    "ledger": READ_LEDGER,
    "record": SAVE_RECORD,
    "claim": CLAIM_PAYMENT,
    "invoke": INVOKE,
    "end of the claim": FINISH_CLAIM,
}
MEANWHILE = (
    "claims expire",
    "delivery",
    "claims expire, then delivery",
    "healing",
    "claims expire, then healing",
    "decision",
)

PAYMENTS = (("1", "a"), ("1", "b"), ("2", "a"), ("3", "a"))
PAID = [body(*payment, amount=amount) for payment in PAYMENTS for amount in (100, 250.5)]
DECLINED = [body(*payment, success=False) for payment in PAYMENTS]
# Mostly deliveries of one payment, because only those meet.
CALLBACKS = st.sampled_from([*PAID, *DECLINED, *10 * PAID[:1]])
SELECTIONS = st.sampled_from([{}, {}, {"orderId": "1"}])
DECISIONS = st.sampled_from([action.value for action in Action])
# The last states of a healing run: without a fault, and if the error log is throttled.
ENDS = {"Healed", "NothingHealed"}
ENDS_DURING_A_FAULT = ENDS | {"CollectionFailed", "TakingFailed"}
# What operators are told of a failure with this status, unless it is the failure's own error.
ERROR_OF = {"given up": "GivenUp"}
# Longer than a claim lasts.
CLAIM_MINUTES = 2
NOTHING_LATE = ("", "")
LATENESS = st.one_of(st.just(NOTHING_LATE), st.tuples(st.sampled_from(list(LATE)), st.sampled_from(MEANWHILE)))
numbers = itertools.count()


class Interleavings(RuleBasedStateMachine):
    """Deliveries, healing and operators, each during a fault, and while another call of any of them is late."""

    def __init__(self, workflow: Workflow) -> None:
        super().__init__()
        self.workflow = workflow
        self.sent: dict[str, str] = {}
        self.recorded: dict[str, str] = {}
        # How often a payment's claim may have ended without a trace, and how often an operator had it dispatched.
        self.unknown: Counter[Payment] = Counter()
        self.decided: Counter[Payment] = Counter()
        self.is_late = False
        workflow.recover()
        workflow.dispatched.clear()
        workflow.sentry.events.clear()
        workflow.purge_parked()
        for state in ("SendErrorEmail", "ReportToSentry"):
            workflow.functions.replace_container(state)
        for table in dynamodb_backends[ACCOUNT][REGION].tables.values():
            table.items.clear()

    @rule(callback=CALLBACKS, fault=st.sampled_from(list(BREAKS)), late=LATENESS, other=CALLBACKS, action=DECISIONS)
    def deliver(self, callback: str, fault: str, late: tuple[str, str], other: str, action: str) -> None:
        with self._fault(fault, late, other, action):
            self._deliver(callback)

    @rule(callback=st.sampled_from(PAID), fault=st.sampled_from(list(UNKNOWNS)))
    def deliver_during_a_lasting_fault(self, callback: str, fault: str) -> None:
        for _ in range(PROMISED + 1):
            with self._fault(fault, NOTHING_LATE):
                self._deliver(callback)
            self.workflow.pass_time(CLAIM_MINUTES)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), fault=st.sampled_from(list(BREAKS)), late=LATENESS, action=DECISIONS)
    def deliver_again(self, data: st.DataObject, fault: str, late: tuple[str, str], action: str) -> None:
        callback = data.draw(st.sampled_from(list(self.sent.values())))
        with self._fault(fault, late, callback, action):
            self._deliver(callback)

    @precondition(lambda self: self.sent)
    @rule(
        selection=SELECTIONS,
        minutes=st.sampled_from([CLAIM_MINUTES, 24 * 60]),
        fault=st.sampled_from(list(BREAKS)),
        late=LATENESS,
        other=CALLBACKS,
        action=DECISIONS,
    )
    def heal(
        self, selection: dict[str, str], minutes: int, fault: str, late: tuple[str, str], other: str, action: str
    ) -> None:
        self.workflow.pass_time(minutes)
        with self._fault(fault, late, other, action):
            self._heal(**selection)

    @precondition(lambda self: self.workflow.errors)
    @rule(fault=st.sampled_from(list(BREAKS)), late=LATENESS, other=CALLBACKS, action=DECISIONS)
    def decide(self, fault: str, late: tuple[str, str], other: str, action: str) -> None:
        with self._fault(fault, late, other, action):
            self._decide(action)

    @contextmanager
    def _fault(self, fault: str, late: tuple[str, str], other: str = "", action: str = "") -> Iterator[None]:
        """Break the calls of a step, and let things happen before a late answer arrives."""
        before = self._ledger()
        call, events = late
        if call:
            self.workflow.aws.run_after(LATE[call], lambda: self._happen(events, other, action))
        BREAKS[fault](self.workflow)
        yield
        self.workflow.recover()
        # No claim expires while its function runs: Lambda would have killed it. But if one did, a payment could be
        # repeated as after any other unknown outcome, no more often.
        if fault in UNKNOWNS or "expire" in events:
            self.unknown.update(payment for payment, item in self._ledger().items() if item != before.get(payment))

    def _happen(self, events: str, other: str, action: str) -> None:
        self.is_late = True
        for event in events.split(", then "):
            match event:
                case "claims expire":
                    self.workflow.pass_time(CLAIM_MINUTES)
                case "delivery":
                    self._deliver(other)
                case "healing":
                    self._heal()
                case "decision" if self.workflow.errors:
                    self._decide(action)
        self.is_late = False

    def wait_for_retry(self) -> None:
        """Let claims expire as before a retry: after a timeout it comes a second later than the claim can last."""
        if not self.is_late:
            self.workflow.pass_time(CLAIM_MINUTES)

    def _ledger(self) -> dict[Payment, dict[str, Any]]:
        """Return each payment's item, but not when its claim expires."""
        return {
            (item["orderKey"].partition("#")[2], item["paymentId"]): {**item, "claimedUntil": None}
            for item in self.workflow.payments
        }

    def _deliver(self, callback: str) -> None:
        request_id = f"request-{next(numbers)}"
        self.sent[request_id] = callback
        execution = self.workflow.run({"body": callback, "requestId": request_id, "receivedAt": 1795341600000})
        if execution.status != "SUCCEEDED":
            return
        status, answer = execution.answer
        if status == 200:
            self.recorded[request_id] = callback
            assert answer["processing"] is json.loads(callback)["success"]
            assert not answer["processing"] or self._calls()[paid_with(callback.encode())]

    def _heal(self, **selection: Any) -> None:
        assert self.workflow.heal(**selection).states[-1] in ENDS_DURING_A_FAULT

    def _decide(self, action: str) -> None:
        """Decide about the failure that has waited longest for an operator, or else about any."""
        row = min(
            self.workflow.errors,
            key=lambda row: (row["status"] == "resolved", lane_of(row.get("queue")) in AUTOMATIC, row["occurredAt"]),
        )
        if action in DISPATCHING:
            self.decided[paid_with(json.loads(row["event"])["body"].encode())] += 1
        decision = {
            "id": f"decision-{next(numbers)}",
            "action": action,
            "by": "an operator",
            "reason": "asked the bank",
        }
        self._heal(requestId=row["requestId"], decision=decision)

    def _calls(self) -> Counter[Payment]:
        return Counter(paid_with(payload) for _, _, payload in self.workflow.dispatched)

    @invariant()
    def no_payment_is_dispatched_more_often_than_promised(self) -> None:
        for payment, calls in self._calls().items():
            repeats = min(self.unknown[payment], PROMISED - 1)
            assert calls <= 1 + repeats + self.decided[payment]

    @invariant()
    def each_dispatch_was_delivered_as_paid(self) -> None:
        paid = {callback.encode() for callback in self.sent.values() if json.loads(callback)["success"]}
        assert {payload for _, _, payload in self.workflow.dispatched} <= paid

    @invariant()
    def no_payment_is_dispatched_with_another_amount_unless_an_operator_decided(self) -> None:
        dispatched = {payload for _, _, payload in self.workflow.dispatched}
        amounts = Counter(paid_with(payload) for payload in dispatched)
        assert all(number == 1 or self.decided[payment] for payment, number in amounts.items())

    @invariant()
    def each_delivery_is_recorded_or_in_the_error_log(self) -> None:
        recorded = {record["requestId"]: record["body"] for record in self.workflow.records}
        logged = {row["requestId"]: json.loads(row["event"])["body"] for row in self.workflow.errors}
        assert self.recorded.items() <= recorded.items()
        assert self.sent.items() == (recorded | logged).items()

    def teardown(self) -> None:
        for _ in range(20):
            self.workflow.pass_time(24 * 60)
            assert self.workflow.heal().states[-1] in ENDS
            if not self._is_due():
                break
        assert not self._is_due()
        self.no_payment_is_dispatched_more_often_than_promised()
        self.each_delivery_is_recorded_or_in_the_error_log()
        rows = {row["requestId"]: row for row in self.workflow.errors}
        waiting = {request for request, row in rows.items() if row["status"] != "resolved"}
        dismissed = {request for request, row in rows.items() if row.get("lastResult", "").startswith("dismissed")}
        told = {event["fingerprint"][-1] for event in self.workflow.sentry.events}
        assert {ERROR_OF.get(rows[request]["status"], rows[request]["error"]) for request in waiting} <= told
        left = {paid_with(self.sent[request].encode()) for request in waiting | dismissed}
        paid = {paid_with(callback.encode()) for callback in self.sent.values() if json.loads(callback)["success"]}
        assert paid - left <= set(self._calls()) <= paid
        undecided = {
            paid_with(self.sent[request].encode())
            for request in waiting
            if rows[request]["error"] == "DispatchUndecided"
        }
        assert all(self.unknown[payment] for payment in undecided)
        dispatched = {payload.decode() for _, _, payload in self.workflow.dispatched}
        by_id = {record["deliveryId"]: record for record in self.workflow.records}
        for record in by_id.values():
            is_dispatched = "dispatchedBy" in record
            assert is_dispatched or not record["success"] or record["requestId"] in waiting | dismissed
            assert not is_dispatched or by_id[record["dispatchedBy"]]["body"] in dispatched

    def _is_due(self) -> bool:
        """Return whether the healing workflow has something left to do."""
        return (
            bool(self.workflow.parked)
            or any("undispatchedSince" in record for record in self.workflow.records)
            or any(lane_of(row.get("queue")) in AUTOMATIC for row in self.workflow.errors)
        )


# The ordinary run always plays the same orders, the exhaustive one new ones each time.
@pytest.mark.parametrize(
    ("orders", "is_random"), [(5, False), pytest.param(60, True, marks=pytest.mark.exhaustive)], ids=str
)
def test_any_order_of_deliveries_faults_healing_and_decisions_keeps_the_promise(
    workflow: Workflow, orders: int, is_random: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Played(Interleavings):
        def __init__(self) -> None:
            super().__init__(workflow)
            monkeypatch.setattr(retrier_decl, "time", SimpleNamespace(sleep=lambda _: self.wait_for_retry()))

    run_state_machine_as_test(
        Played,
        settings=settings(
            max_examples=orders,
            stateful_step_count=8,
            derandomize=not is_random,
            database=None,
            phases=tuple(Phase) if is_random else (Phase.generate,),
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
