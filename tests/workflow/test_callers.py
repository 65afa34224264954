"""What a caller who is not the bank can do, without a check and with each: the table of docs/security.md."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from local.stack import ROOT
from tests.sources import FUNCTIONS
from tests.workflow.account import Workflow
from tests.workflow.engine import Execution
from tests.workflow.genuine import (
    ORDER,
    Bank,
    create_tables,
    delivery,
    forget_secrets,
    put_order,
    put_secret,
)

PAGE = (ROOT / "docs/security.md").read_text()
CHECKS = {"all checks off": "", "signature": "SignatureMode", "cross-check": "CrossCheckMode", "inquiry": "InquiryMode"}
# Nobody waits for the reports of a conflict.
REPORTS = {"WriteErrorLog", "ReportToSentry", "SendErrorEmail"}
SIX_MINUTES = int(timedelta(minutes=6).total_seconds() * 1000)


@dataclass
class Caller:
    """Somebody who knows the address of the API, and perhaps an order; they have no key."""

    workflow: Workflow
    bank: Bank
    modes: dict[str, str]

    def __post_init__(self) -> None:
        self._numbers = count()
        self.deploy()

    def deploy(self, **parameters: str) -> None:
        self.workflow.deploy(**self.modes, **parameters)

    def send(self, **fields: Any) -> Execution:
        """Send an unsigned callback for the order, by default of a payment that they invent."""
        number = next(self._numbers)
        callback = delivery(key=None)
        body = json.loads(callback["body"]) | {"paymentId": f"invented-{number}"} | fields
        return self.workflow.run(callback | {"body": json.dumps(body), "requestId": f"request-{number}"})

    def pay(self, **fields: Any) -> bool:
        """Return whether such a callback is dispatched."""
        before = len(self.workflow.dispatched)
        self.send(**fields)
        return len(self.workflow.dispatched) > before

    def observe(self, **fields: Any) -> tuple[Any, ...]:
        """Return the answer without what the caller sent, and the tasks and pauses that they could measure."""
        execution = self.send(**fields)
        status, answer = execution.answer
        echoed = {"orderId", "paymentId"}
        seen = {key: str(value).replace(execution.name, "…") for key, value in answer.items() if key not in echoed}
        tasks = [state for state in execution.states if state in FUNCTIONS and state not in REPORTS]
        return status, seen, tasks, execution.waits

    def can_tell(self, *guesses: dict[str, Any]) -> str:
        """Return yes or no: whether the caller sees a difference between callbacks with these fields."""
        return "no" if all(self.observe(**guess) == self.observe(**guesses[0]) for guess in guesses[1:]) else "yes"


def pay_an_order(caller: Caller) -> str:
    if caller.pay(userId="guessed", amount=1):
        return "yes"
    return "only with its user and total" if caller.pay() else "no"


def pay_their_own_order(caller: Caller) -> str:
    if not caller.pay():
        return "no"
    caller.deploy(PaymentRequired="true")
    return "yes" if caller.pay() else "yes; with `PaymentRequired=true` no"


def pay_less(caller: Caller) -> str:
    caller.bank.status, caller.bank.amount = "PAID", "1.00"
    if not caller.pay(amount=1):
        return "no"
    return "yes" if caller.pay() else "only as much as the bank confirms"


def replay(caller: Caller) -> str:
    caller.bank.status = "PAID"
    workflow, genuine = caller.workflow, delivery()
    for request_id in ("genuine", "replayed"):
        workflow.run(genuine | {"requestId": request_id})
    assert len(workflow.records) == 2
    workflow.run(genuine | {"requestId": "late", "receivedAt": genuine["receivedAt"] + SIX_MINUTES})
    assert len(workflow.dispatched) == 1
    if len(workflow.records) == 3:
        return "recorded, not dispatched again"
    return "recorded within five minutes, but not dispatched again; then refused"


def learn_whether_an_order_exists(caller: Caller) -> str:
    wrong = {"userId": "guessed", "amount": 1}
    return caller.can_tell(wrong | {"orderId": "unknown"}, wrong)


def learn_an_orders_terms(caller: Caller) -> str:
    return caller.can_tell({"userId": "guessed", "amount": 1}, {"userId": "guessed"}, {"amount": 1})


def learn_a_payments_terms(caller: Caller) -> str:
    caller.bank.status = "PAID"
    caller.workflow.run(delivery())
    (payment,) = caller.workflow.payments
    ids = {"paymentId": payment["paymentId"]}
    return caller.can_tell(ids, ids | {"amount": 1}, ids | {"userId": "guessed"})


def fill_the_error_log(caller: Caller) -> str:
    for _ in range(3):
        caller.send(userId=None)
    return "yes" if len(caller.workflow.errors) == 3 else "no"


# By the beginnings of the table's rows, in its order.
ATTEMPTS: dict[str, Callable[[Caller], str]] = {
    "pay an order of someone else": pay_an_order,
    "pay their own order without paying": pay_their_own_order,
    "pay less": pay_less,
    "replay a callback": replay,
    "learn whether an order exists": learn_whether_an_order_exists,
    "learn an order's user or total": learn_an_orders_terms,
    "learn the user or amount of a dispatched payment": learn_a_payments_terms,
    "fill the error log": fill_the_error_log,
}


def rows() -> list[list[str]]:
    """Return the cells of the table, its head first and without its rule."""
    table = PAGE.split("A caller who is not the bank can do this:\n\n")[1].split("\n\n")[0]
    lines = table.replace("**", "").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:1] + lines[2:]]


def test_the_table_has_a_row_for_each_attempt_and_a_column_for_each_check() -> None:
    head, *others = rows()
    assert head[1:] == list(CHECKS)
    assert [row[0].startswith(attempt) for row, attempt in zip(others, ATTEMPTS, strict=True)] == [True] * len(ATTEMPTS)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_caller_can_do_what_the_table_says(workflow: Workflow, bank: Bank, attempt: str, check: str) -> None:
    forget_secrets(workflow)
    put_secret({"baseUrl": bank.url, "clientId": "payment3", "clientSecret": "s"})
    create_tables()
    put_order(**ORDER)
    bank.status = "PENDING"
    caller = Caller(workflow, bank, {CHECKS[check]: "enforce"} if CHECKS[check] else {})

    head, *others = rows()
    cells = dict(zip(head, others[list(ATTEMPTS).index(attempt)], strict=True))
    done = ATTEMPTS[attempt](caller)
    # A reason or a restriction may follow.
    assert re.fullmatch(f"{re.escape(done)}([:,] .*)?", cells[check])
