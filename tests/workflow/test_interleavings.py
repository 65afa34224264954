"""Payments in parallel, and in random order among faults: each is dispatched once, each delivery recorded."""

import itertools
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from moto.dynamodb.models import dynamodb_backends
from moto.stepfunctions.parser.asl.component.common.retry import retrier_decl

from callbacks.queues import AUTOMATIC, lane_of
from tests.workflow.account import (
    CLAIM_PAYMENT,
    CONFIRM_DISPATCH,
    FINISH_CLAIM,
    INVOKE,
    SAVE_ERROR,
    SAVE_RECORD,
    Call,
    Workflow,
    kill_process,
)
from tests.workflow.engine import ACCOUNT, REGION, Execution

CONFLICT_ERROR = "The payment was delivered before with another amount or user"
INVALID_ERROR = "userId: is missing"

READ_FAILURE: Call = ("in ClaimFailure:", "GetItem")


def body(order: str, payment: str, **fields: Any) -> str:
    callback = {"orderId": order, "paymentId": payment, "userId": "u", "success": True, "amount": 100} | fields
    return json.dumps({field: value for field, value in callback.items() if value is not None})


def paid_with(payload: bytes) -> tuple[str, str]:
    callback = json.loads(payload)
    return callback["orderId"], callback["paymentId"]


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
        answers = list(pool.map(lambda sent: workflow.run({"body": sent[2]}).answer, bodies))

    answered: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
    dispatched = []
    for (kind, order, sent), (status, answer) in zip(bodies, answers, strict=True):
        seen = (answer["processing"], answer["duplicate"]) if status == 200 else (answer["error"],)
        answered[order].append((status, *seen))
        if kind in {"paid", "conflict", "duplicate"} and seen == (True, False):
            dispatched.append(sent.encode())
    expected = {
        "paid": [(200, True, False)],
        "declined": [(200, False, False)],
        "duplicate": [(200, True, False), (200, True, True)],
        "conflict": [(200, True, False), (500, CONFLICT_ERROR)],
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


def throttled(call: Call) -> Break:
    return lambda workflow: workflow.aws.refuse(call, "ProvisionedThroughputExceededException")


def killed_after(call: Call) -> Break:
    return lambda workflow: workflow.aws.run_after(call, kill_process)


def lost_after(state: str) -> Break:
    return lambda workflow: workflow.functions.run_after(state, workflow.abort_callback)


def refused(workflow: Workflow) -> None:
    workflow.aws.refuse(INVOKE, "TooManyRequestsException", 429)


def refused_and_not_logged(workflow: Workflow) -> None:
    refused(workflow)
    workflow.aws.refuse(SAVE_ERROR, "ProvisionedThroughputExceededException")


# An accepted invocation whose answer is lost, or whose process is killed, is not among them: that one is repeated.
FAULTS: dict[str, Break] = {
    "record throttled": throttled(SAVE_RECORD),
    "claim throttled": throttled(CLAIM_PAYMENT),
    "invoke refused": refused,
    "end of the claim throttled": throttled(FINISH_CLAIM),
    "confirmation throttled": throttled(CONFIRM_DISPATCH),
    "invoke refused, error log throttled": refused_and_not_logged,
}
KILLS = {
    "killed after the record": killed_after(SAVE_RECORD),
    "killed after the claim": killed_after(CLAIM_PAYMENT),
    "killed after the end of the claim": killed_after(FINISH_CLAIM),
}
LOSSES = {f"lost after {state}": lost_after(state) for state in ("SaveCallbackRecord", "InvokeProcessPaid")}

ORDERS = ("1", "2", "3")
PAYMENTS = (("1", "a"), ("1", "b"), ("2", "a"), ("3", "a"))
PAID = st.sampled_from([body(*payment, amount=amount) for payment in PAYMENTS for amount in (100, 250.5)])
DECLINED = st.sampled_from([body(*payment, success=False) for payment in PAYMENTS])
request_numbers = itertools.count()


class Interleavings(RuleBasedStateMachine):
    def __init__(self, workflow: Workflow) -> None:
        super().__init__()
        self.workflow = workflow
        self.sent: list[str] = []
        self.recorded: dict[str, str] = {}
        self.kills: Counter[tuple[str, str]] = Counter()
        workflow.recover()
        workflow.dispatched.clear()
        for table in dynamodb_backends[ACCOUNT][REGION].tables.values():
            table.items.clear()

    @rule(sent=PAID | DECLINED)
    def deliver(self, sent: str) -> None:
        self._deliver(sent)

    @rule(sent=PAID, fault=st.sampled_from([*FAULTS]))
    def deliver_while_a_call_fails(self, sent: str, fault: str) -> None:
        self._deliver(sent, fault)

    @rule(sent=PAID, fault=st.sampled_from([*KILLS]))
    def deliver_to_a_process_that_dies(self, sent: str, fault: str) -> None:
        self._deliver(sent, fault)

    @rule(sent=PAID, fault=st.sampled_from([*LOSSES]))
    def deliver_to_an_execution_that_is_lost(self, sent: str, fault: str) -> None:
        self._deliver(sent, fault)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        self._deliver(data.draw(st.sampled_from(self.sent)))

    @rule()
    def heal(self) -> None:
        assert self.workflow.heal().status == "SUCCEEDED"

    @rule(order=st.sampled_from(ORDERS))
    def heal_order(self, order: str) -> None:
        assert self.workflow.heal(orderId=order).status == "SUCCEEDED"

    @rule()
    def pass_time(self) -> None:
        self.workflow.pass_time()

    def _deliver(self, sent: str, fault: str = "") -> None:
        self.sent.append(sent)
        request_id = f"request-{next(request_numbers)}"
        if fault == "killed after the claim":
            self.kills[paid_with(sent.encode())] += 1
        if fault:
            (FAULTS | KILLS | LOSSES)[fault](self.workflow)
        execution = self.workflow.run({"body": sent, "requestId": request_id, "receivedAt": 1795341600000})
        self.workflow.recover()
        if execution.status != "SUCCEEDED":
            assert fault in LOSSES
            return
        status, answer = execution.answer
        if status == 200:
            self.recorded[request_id] = sent
            assert answer["processing"] is json.loads(sent)["success"]
            assert not answer["processing"] or self._calls()[paid_with(sent.encode())]

    def _calls(self) -> Counter[tuple[str, str]]:
        return Counter(paid_with(payload) for _, _, payload in self.workflow.dispatched)

    @invariant()
    def each_payment_is_dispatched_at_most_once(self) -> None:
        assert set(self._calls().values()) <= {1}

    @invariant()
    def each_dispatch_was_delivered_as_paid(self) -> None:
        paid = {sent.encode() for sent in self.sent if json.loads(sent)["success"]}
        assert {payload for _, _, payload in self.workflow.dispatched} <= paid

    @invariant()
    def each_delivery_answered_200_is_recorded(self) -> None:
        recorded = {record["requestId"]: record["body"] for record in self.workflow.records}
        assert self.recorded.items() <= recorded.items()

    def teardown(self) -> None:
        for _ in range(10):
            self.workflow.pass_time()
            self.heal()
            if not self._is_due():
                break
        assert not self._is_due()
        self.each_payment_is_dispatched_at_most_once()
        records, rows = self.workflow.records, self.workflow.errors
        known = [record["body"] for record in records] + [json.loads(row["event"])["body"] for row in rows]
        paid = {paid_with(sent.encode()) for sent in known if json.loads(sent)["success"]}
        unresolved = {row["requestId"]: (row["status"], row["error"]) for row in rows if row["status"] != "resolved"}
        assert set(unresolved.values()) <= {("open", "PaymentConflict"), ("open", "DispatchUndecided")}
        # A payment whose processes died after two claims may have been dispatched twice, for all that the ledger knows.
        undecided = {
            paid_with(json.loads(row["event"])["body"].encode()) for row in rows if row["error"] == "DispatchUndecided"
        }
        assert undecided <= {payment for payment, kills in self.kills.items() if kills > 1}
        assert paid - undecided <= set(self._calls()) <= paid
        dispatched = {payload.decode() for _, _, payload in self.workflow.dispatched}
        by_id = {record["deliveryId"]: record for record in records}
        for record in records:
            assert ("dispatchedBy" in record) is (record["success"] and record["requestId"] not in unresolved)
            assert "dispatchedBy" not in record or by_id[record["dispatchedBy"]]["body"] in dispatched

    def _is_due(self) -> bool:
        """Return whether the healing workflow has something left to do."""
        return any("undispatchedSince" in record for record in self.workflow.records) or any(
            lane_of(row.get("queue")) in AUTOMATIC for row in self.workflow.errors
        )


# The ordinary run always plays the same orders, the exhaustive one new ones each time.
@pytest.mark.parametrize(
    ("orders", "is_random"), [(20, False), pytest.param(400, True, marks=pytest.mark.exhaustive)], ids=str
)
@pytest.mark.usefixtures("claims_expire_before_retries")
def test_any_order_of_deliveries_faults_and_healing_dispatches_once(
    workflow: Workflow, orders: int, is_random: bool
) -> None:
    class Played(Interleavings):
        def __init__(self) -> None:
            super().__init__(workflow)

    run_state_machine_as_test(
        Played,
        settings=settings(
            max_examples=orders,
            stateful_step_count=12,
            derandomize=not is_random,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
