"""Runs two deliveries of one payment and a redrive in every order of their AWS calls, on the real handlers.

To find an actor's next call, the handler of its task is run again with the replies that the task has got so far, and
stopped at the first call without a reply. So where a schedule stands is plain data: the contents of the tables, the
time, and each actor's task and replies. From equal data it can only continue alike: those continuations are run once,
and counted for every schedule that leads there. moto evaluates the calls.

Schedules that differ only in the order of two calls that commute are run in one of the orders: see Explorer._alone.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

from botocore.exceptions import ReadTimeoutError
from moto.dynamodb.models import dynamodb_backends

from callbacks import queues
from tests.sources import CHECKS, FUNCTIONS, TEMPLATE, all_states
from tests.workflow.account import (
    CLAIM_PAYMENT,
    FINISH_CLAIM,
    INVOKE,
    LONG_AGO,
    PROCESS_DIED,
    Handler,
    HttpAnswer,
    client,
    running_state,
)
from tests.workflow.engine import (
    ACCOUNT,
    CALLBACK,
    ERROR_TABLE,
    HEALING,
    LEDGER_TABLE,
    PARKED_QUEUE,
    RECORD_TABLE,
    REGION,
)

START = LONG_AGO
STATES = all_states(HEALING.definition) | all_states(CALLBACK.definition)
RECORDS, LEDGER, FAILURES = TABLES = (RECORD_TABLE, LEDGER_TABLE, ERROR_TABLE)
# The queue of parked deliveries is kept like a table, with an item for each message.
STORES = (*TABLES, PARKED_QUEUE)
# Their calls about a record show, or look for, a dispatch that the ledger may not know.
DISPATCHING = {"InvokeProcessPaid", "ConfirmDispatch"}
# The task states that call AWS themselves, without a function.
OWN_CALLS = {
    name for name, state in STATES.items() if state.get("Resource", "").endswith((":updateItem", ":sendMessage"))
}
FIRST, SECOND, REDRIVE = "first delivery", "second delivery", "redrive"
THROTTLED = (400, '{"__type": "ProvisionedThroughputExceededException", "message": "throttled"}')
INVOKE_THROTTLED = (429, '{"__type": "TooManyRequestsException", "message": "throttled"}')

Items = list[dict[str, Any]]


class Fault(StrEnum):
    """What goes wrong with a call, or with the task that is about to make it.

    A task that dies between two calls dies before the second one; only after its last call does it die AFTER.
    """

    # Also if the client tries again.
    REFUSED = "refused"
    # The call takes effect. If the client tries again, that succeeds, or is refused.
    LOST = "answer lost"
    LOST_FOR_GOOD = "answer lost, then refused"
    # Lambda never got the call; to the caller it looks like LOST.
    UNANSWERED = "not delivered"
    KILLED = "killed before"
    KILLED_AFTER = "killed after"
    # The task hangs until its time is over; by the time of its retry, its claim on the payment has expired.
    TIMED_OUT = "timed out before"
    TIMED_OUT_AFTER = "timed out after"
    # The whole execution dies: no state follows.
    ABORTED = "execution aborted before"
    # So much time passes that the claim of an attempt that has ended expires.
    EXPIRED = "claim expired"


# An attempt that runs holds its claim, so no claim can expire before another fault has ended an attempt.
FIRST_FAULTS = [fault for fault in Fault if fault != Fault.EXPIRED]
DEATHS = {
    Fault.KILLED: (Fault.KILLED_AFTER, PROCESS_DIED["errorType"]),
    Fault.TIMED_OUT: (Fault.TIMED_OUT_AFTER, "Sandbox.Timedout"),
}


class Reply(NamedTuple):
    """The answer to a call, and when it came (milliseconds after START); without a status no answer came."""

    at: int
    status: int | None
    body: str = ""


class Task(NamedTuple):
    """An actor in a Task state: the workflow's data as JSON text, and the replies so far.

    `tries` counts the state's earlier tries. `since` is when its first call was made (milliseconds after START).
    """

    actor: str
    state: str
    data: str
    tries: int = 0
    since: int = 0
    replies: tuple[Reply, ...] = ()

    @property
    def attempt_id(self) -> str:
        return f"{self.actor}, {self.tries + 1}"

    @property
    def waits_for_a_failure(self) -> bool:
        return self.state == "TakeParked" and not self.replies

    def after(self, reply: Reply) -> "Task":
        return self._replace(replies=(*self.replies, reply))


class Ended(NamedTuple):
    """An actor that has ended, and the HTTP status of its answer; None if it has not answered."""

    actor: str
    status: int | None = None


class Call(NamedTuple):
    """A call, described as AwsCalls does; it invokes process-paid if it has no table, which may be the parked queue."""

    description: str
    operation: str
    table: str | None

    @property
    def sent(self) -> dict[str, Any]:
        sent: dict[str, Any] = json.loads(self.description[self.description.index("{") :])
        return sent

    @property
    def finishes_claim(self) -> bool:
        return all(text in self.description for text in FINISH_CLAIM)


class Outcome(NamedTuple):
    """A task's result, or the name of its error."""

    result: Any = None
    error: str = ""


Actor = Task | Ended


class AwaitsReply(BaseException):
    """Ends a replay; no handler can catch it."""


class Replayer:
    """Finds out what a task does next, and what a call does to a table; remembers both."""

    def __init__(self, handlers: dict[str, Handler], moto: Callable[[Any], Any]) -> None:
        self._handlers = {arn.split("-")[-2]: handler for arn, handler in handlers.items()}
        self._moto = moto
        self._now = 0
        self._replies: Iterator[Reply] = iter(())
        self._pending: tuple[Call, Any] | None = None
        # In these CollectUndispatched finds nothing, and a fault there is like one in the query that may find a record.
        self._other_shards: set[str] = set()
        self._found: dict[Task, Call | Outcome] = {}
        self._requests: dict[Call, Any] = {}
        self._evaluated: dict[tuple[Call, str], tuple[str, int, str]] = {}

    def now(self) -> datetime:
        """Take the place of times.now."""
        return START + timedelta(milliseconds=self._now)

    def process_request(self, request: Any) -> HttpAnswer:
        """Take the place of AwsCalls.process_request."""
        if self._other_shards and any(f'"{shard}"'.encode() in request.body for shard in self._other_shards):
            return 200, {}, '{"Count": 0, "ScannedCount": 0, "Items": []}'
        reply = next(self._replies, None)
        if reply is None:
            self._pending = call_of(request), request
            raise AwaitsReply
        self._now = reply.at
        if reply.status is None:
            raise ReadTimeoutError(endpoint_url=request.url)
        return reply.status, {"x-amzn-requestid": "8f5e"}, reply.body

    def callback(self, delivery: dict[str, Any]) -> Any:
        """Return what ValidateCallback, which makes no call, returns for a delivery."""
        event = {"delivery": delivery, "executionName": "unused", "startedAt": START.isoformat()}
        return self._handlers["ValidateCallback"](event, None)

    def run(self, task: Task) -> Call | Outcome:
        """Return the task's first call without a reply, or its outcome."""
        if task not in self._found:
            self._now, self._replies = task.since, iter(task.replies)
            self._other_shards = other_shards(task)
            self._found[task] = self._run(task)
        return self._found[task]

    def _run(self, task: Task) -> Call | Outcome:
        is_own_call = task.state in OWN_CALLS
        token = running_state.set("" if is_own_call else task.state)
        try:
            return Outcome(self._call(task) if is_own_call else self._handle(task))
        except AwaitsReply:
            assert self._pending
            call, request = self._pending
            self._requests[call] = request
            return call
        except (AttributeError, LookupError, TypeError, ValueError):
            # The schedule has passed something wrong to the task: that is no failure of the task.
            raise
        except Exception as error:  # noqa: BLE001 Lambda answers for any exception
            is_timeout = is_own_call and isinstance(error, ReadTimeoutError)
            return Outcome(error="States.Timeout" if is_timeout else type(error).__name__)
        finally:
            running_state.reset(token)

    @staticmethod
    def _call(task: Task) -> Any:
        given = given_to(task)
        if task.state == "ConfirmDispatch":
            return client("dynamodb").update_item(**given)
        return client("sqs").send_message(QueueUrl=given["QueueUrl"], MessageBody=as_text(given["MessageBody"]))

    def _handle(self, task: Task) -> Any:
        seconds = FUNCTIONS[task.state].get("Timeout", TEMPLATE["Globals"]["Function"]["Timeout"])
        context = SimpleNamespace(aws_request_id=task.attempt_id, get_remaining_time_in_millis=lambda: seconds * 1_000)
        return json.loads(json.dumps(self._handlers[task.state](given_to(task)["Payload"], context)))

    def evaluate(self, call: Call, content: str) -> tuple[str, int, str]:
        """Return the table's content after a call, and the answer's status and body."""
        if call.table == PARKED_QUEUE:
            messages, answer = after_queue_call(call, items_of(content))
            return as_text(messages), 200, as_text(answer)
        key = _key(call)
        seen = [item for item in items_of(content) if key is None or key.items() <= item.items()]
        others = [item for item in items_of(content) if item not in seen]
        changed, status, body = self._evaluate(call, as_text(seen))
        return as_text(sorted([*others, *items_of(changed)], key=as_text)), status, body

    def _evaluate(self, call: Call, content: str) -> tuple[str, int, str]:
        if (call, content) not in self._evaluated:
            table = dynamodb_backends[ACCOUNT][REGION].tables[str(call.table)]
            table.items.clear()
            for item in json.loads(content):
                table.put_item(item)
            status, _, body = self._moto(self._requests[call])
            items = [item.to_json()["Attributes"] for item in table.all_items()]
            self._evaluated[call, content] = as_text(items), status, body if isinstance(body, str) else body.decode()
        return self._evaluated[call, content]


def call_of(request: Any) -> Call:
    body = request.body.decode()
    target = (request.headers.get("X-Amz-Target") or b"").decode()
    description = f"in {running_state.get()}: {request.url} {target} {body}"
    if INVOKE[0] in request.url:
        return Call(description, "Invoke", None)
    sent = json.loads(body)
    (table,) = sent.get("RequestItems", [sent.get("TableName", sent.get("QueueUrl"))])
    return Call(description, target.rpartition(".")[2], table)


def after_queue_call(call: Call, messages: Items) -> tuple[Items, dict[str, Any]]:
    """Return the queue's messages after a call, and the answer. A message that is received is hidden from then on."""
    match call.operation:
        case "SendMessage":
            body = call.sent["MessageBody"]
            request_id = json.loads(body)["event"]["requestId"]
            parked = {"requestId": {"S": request_id}, "body": {"S": body}, "isHidden": {"BOOL": False}}
            return [*messages, parked], {}
        case "ReceiveMessage":
            received = [
                {"MessageId": str(place), "ReceiptHandle": str(place), "Body": message["body"]["S"]}
                for place, message in enumerate(messages)
                if not message["isHidden"]["BOOL"]
            ]
            return [message | {"isHidden": {"BOOL": True}} for message in messages], {"Messages": received}
        case "DeleteMessageBatch":
            deleted = {entry["ReceiptHandle"] for entry in call.sent["Entries"]}
            return [message for place, message in enumerate(messages) if str(place) not in deleted], {}
    raise AssertionError(call)


@cache
def _key(call: Call) -> Any:
    """Return the key of the one item that a call reads or writes, or None if it reads several."""
    request = call.sent
    if "Item" in request:
        schema = dynamodb_backends[ACCOUNT][REGION].tables[str(call.table)].schema
        return {part["AttributeName"]: request["Item"][part["AttributeName"]] for part in schema}
    return request.get("Key")


@cache
def items_of(content: str) -> Items:
    items: Items = json.loads(content)
    return items


@cache
def request_id_of(data: str) -> str:
    return str(json.loads(data)["requestId"])


def as_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def other_shards(task: Task) -> set[str]:
    """Return the shards that CollectUndispatched queries, without that of the delivery that is redriven."""
    if task.state != "CollectUndispatched":
        return set()
    channel = STATES[task.state]["Parameters"]["Payload"]["channel"]
    return {*queues.shards_of(channel)} - {queues.shard_of(channel, request_id_of(task.data))}


def given_to(task: Task) -> Any:
    """Return what a state's Parameters make of the workflow's data."""
    data = json.loads(task.data)
    if task.state in {"WriteErrorLog", "ParkDelivery"}:
        data = filled(STATES["ReportFailure"]["Parameters"], data) | {"$$": data["$$"]}
    return filled(STATES[task.state]["Parameters"], data)


def filled(template: Any, data: Any) -> Any:
    """Return a state's Parameters with the data that their paths lead to; `$$` is a member like any other."""
    if not isinstance(template, dict):
        return template
    return {
        name.removesuffix(".$"): _at(value, data) if name.endswith(".$") else filled(value, data)
        for name, value in template.items()
    }


def _at(path: str, data: Any) -> Any:
    if path == "$":
        return {name: value for name, value in data.items() if name != "$$"}
    for name in path.removeprefix("$.").split("."):
        data = data[name]
    return data


class Workflows:
    """The order of the states for a paid callback, if no check is on; retries and inputs are the definitions' own."""

    def __init__(self, replayer: Replayer) -> None:
        self._replayer = replayer

    def deliver(self, actor: str, delivery: dict[str, Any], **of_healing: Any) -> Task:
        # As TakeOverVerdicts does for a redrive.
        earlier = delivery.get("earlier", {"checks": {}, "modes": {}})
        execution = {"Id": f"arn of {actor}", "Name": actor, "StartTime": START.isoformat(), "Input": delivery}
        data = {
            "$$": {"Execution": execution},
            "valid": {"callback": self._replayer.callback(delivery)},
            "checks": {check: {"verdict": "skipped"} for check in CHECKS} | earlier["checks"],
            "modes": dict.fromkeys(CHECKS, "off") | earlier["modes"],
            # It matters only to a conflict.
            **of_healing,
        }
        return Task(actor, "SaveCallbackRecord", as_text(data))

    @staticmethod
    def heal(request_id: str) -> Task:
        """Start the healing workflow; it redrives this delivery as soon as there is something to redrive."""
        data = {
            "$$": {"Execution": {"Input": {}}},
            "requestId": request_id,
            "isManual": False,
            "decision": None,
        }
        return Task(REDRIVE, "TakeParked", as_text(data))

    def follow(self, task: Task, outcome: Outcome, now: int) -> Actor:  # noqa: PLR0911 one for each state
        """Return where a task's actor is after its outcome."""
        if outcome.error and _is_retried(task, outcome.error):
            return task._replace(tries=task.tries + 1, since=0, replies=())
        data = json.loads(task.data)
        match task.state:
            case "TakeParked":
                return Task(task.actor, "CollectUndispatched", task.data)
            case "CollectUndispatched":
                return Task(task.actor, "ClaimFailure", task.data)
            case "ClaimFailure" if not outcome.error and outcome.result["plan"] == "redrive":
                of_healing = {
                    "requestId": data["requestId"],
                    "isManual": data["isManual"],
                    "claimed": {"claim": {name: outcome.result[name] for name in ("attempt", "lane")}},
                }
                return self.deliver(task.actor, json.loads(outcome.result["input"]), **of_healing)
            case "ClaimFailure" | "SettleFailure":
                return Ended(task.actor)
            case "ConfirmDispatch":
                return self._answer(task, data, 200, is_done=not outcome.error)
            case "InvokeProcessPaid" if not outcome.error and outcome.result["isConfirmed"]:
                return self._answer(task, data, 200, is_done=True)
            case "WriteErrorLog" if not outcome.error:
                return self._answer(task, data, 500, is_done=False)
            case "WriteErrorLog":
                return Task(task.actor, "ParkDelivery", task.data)
            case "ParkDelivery":
                # Parked or not, the execution fails.
                return self._settle(task, data, {"Status": "FAILED"}) if "claimed" in data else Ended(task.actor, 500)
            case "SaveCallbackRecord" if not outcome.error:
                # Without checks it does not matter what the ledger says.
                return Task(task.actor, "InvokeProcessPaid", task.data)
            case "InvokeProcessPaid" if not outcome.error:
                data["dispatch"] = {"dispatchedBy": outcome.result["dispatchedBy"]}
                return Task(task.actor, "ConfirmDispatch", as_text(data))
        data["$$"]["State"] = {"EnteredTime": (START + timedelta(milliseconds=now)).isoformat()}
        data["failure"] = {task.state: {"Error": outcome.error, "Cause": ""}}
        return Task(task.actor, "WriteErrorLog", as_text(data))

    def abort(self, task: Task) -> Actor:
        """Return where an actor is after its execution has died; healing outlives the callback's execution."""
        data = json.loads(task.data)
        if "claimed" in data and task.state != "SettleFailure":
            return self._settle(task, data, {"Status": "TIMED_OUT"})
        return Ended(task.actor)

    def _answer(self, task: Task, data: dict[str, Any], status: int, *, is_done: bool) -> Actor:
        if "claimed" not in data:
            return Ended(task.actor, status)
        answer = {"statusCode": status, "body": json.dumps({"message": "answered"}), "isDone": is_done}
        return self._settle(task, data, {"Status": "SUCCEEDED", "Output": json.dumps(answer)})

    @staticmethod
    def _settle(task: Task, data: dict[str, Any], run: dict[str, str]) -> Task:
        settled = {name: data[name] for name in ("requestId", "isManual", "claimed")} | {"run": run}
        return Task(task.actor, "SettleFailure", as_text(settled))


def _is_retried(task: Task, error: str) -> bool:
    (retry,) = STATES[task.state].get("Retry", [{"ErrorEquals": [], "MaxAttempts": 0}])
    names = retry["ErrorEquals"]
    is_named = error in names or ("States.TaskFailed" in names and error != "States.Timeout")
    return is_named and task.tries < int(retry["MaxAttempts"])


class State(NamedTuple):
    """Where a schedule stands. Actors and contents are numbers, which compare fast.

    `uncertain` counts the dispatches whose outcome the ledger was not told, `broken` the attempts that may have kept a
    claim without a dispatch.
    """

    contents: tuple[int, ...]
    actors: tuple[int, ...]
    now: int
    faults_left: int
    invoked: int = 0
    uncertain: int = 0
    broken: int = 0


class Move(NamedTuple):
    """One step of an actor: the fault in it, where the actor is then, and what else has changed."""

    description: str
    fault: Fault | None
    actor: int
    now: int
    table: int = 0
    content: int | None = None
    invoked: int = 0
    uncertain: int = 0
    broken: int = 0


@dataclass(frozen=True)
class Moment:
    """What a schedule has led to when an actor has ended: if `is_over`, the last one.

    Items have DynamoDB's types. `statuses` are those of the answers so far.
    """

    is_over: bool
    statuses: list[int]
    records: Items
    payments: Items
    failures: Items
    parked: Items
    invoked: int
    uncertain: int
    broken: int


def _may_keep_a_claim(call: Call, fault: Fault) -> bool:
    is_refused_invoke = call.table is None and fault == Fault.REFUSED
    is_claim = all(text in call.description for text in CLAIM_PAYMENT)
    # In either case the attempt gives its claim back.
    is_given_back = is_refused_invoke or (is_claim and fault in {Fault.REFUSED, Fault.LOST})
    return call.description.startswith("in InvokeProcessPaid:") and not is_given_back


class Numbers[V]:
    """Numbers values in the order in which they appear."""

    def __init__(self) -> None:
        self._numbers: dict[V, int] = {}
        self.values: list[V] = []

    def of(self, value: V) -> int:
        number = self._numbers.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


class Explorer:
    """Runs schedules, and verifies each moment at which an actor has ended.

    `first` are the faults that can come first. Without `prunes`, calls that commute are run in both orders.
    """

    def __init__(
        self,
        replayer: Replayer,
        verify: Callable[[Moment], None],
        *,
        faults: int = 0,
        first: Sequence[Fault] = FIRST_FAULTS,
        prunes: bool = True,
    ) -> None:
        self._replayer = replayer
        self._workflows = Workflows(replayer)
        self._verify = verify
        self._faults = faults
        self._first = first
        self._prunes = prunes
        self._contents = Numbers[str]()
        self._actors = Numbers[Actor]()
        self._moves: dict[tuple[int | bool, ...], list[Move]] = {}
        self._schedules: dict[State, int] = {}
        self._trail: list[Move] = []

    @property
    def states(self) -> int:
        """How many different states the schedules have led to."""
        return len(self._schedules)

    def count(self, first: dict[str, Any], second: dict[str, Any]) -> int:
        """Run all schedules of two deliveries and of a redrive of the first one; return how many there are."""
        return self._count(self._start(first, second))

    def walk(self, first: dict[str, Any], second: dict[str, Any], fails: Callable[[Call], bool]) -> list[Call]:
        """Run one schedule: one actor after the other, the first with calls that are refused. Return the calls."""
        state, calls = self._start(first, second), []
        for place in range(len(state.actors)):
            while isinstance(task := self._actors.values[state.actors[place]], Task):
                if self._is_waiting(task, state.contents):
                    break
                call = self._call(task)
                fault = Fault.REFUSED if task.actor == FIRST and fails(call) else None
                moves = self._following(state._replace(faults_left=1))
                state = next(
                    then for move, then in moves if move.fault == fault and then.actors[place] != state.actors[place]
                )
                calls.append(call)
        return calls

    def _start(self, first: dict[str, Any], second: dict[str, Any]) -> State:
        deliver = self._workflows.deliver
        tasks = [deliver(FIRST, first), deliver(SECOND, second), self._workflows.heal(first["requestId"])]
        empty = self._contents.of("[]")
        return State((empty,) * len(STORES), tuple(map(self._actors.of, tasks)), 0, self._faults)

    def _count(self, state: State) -> int:
        if state in self._schedules:
            return self._schedules[state]
        schedules = 0
        for move, following in self._following(state):
            self._trail.append(move)
            if isinstance(self._actors.values[move.actor], Ended):
                self._look(following, is_over=False)
            schedules += self._count(following)
            self._trail.pop()
        if not schedules:
            self._look(state, is_over=True)
        self._schedules[state] = schedules or 1
        return schedules or 1

    def _look(self, state: State, *, is_over: bool) -> None:
        actors = [self._actors.values[number] for number in state.actors]
        statuses = [actor.status for actor in actors if isinstance(actor, Ended) and actor.status]
        records, payments, failures, parked = (self._items(state.contents, store) for store in STORES)
        moment = Moment(is_over, statuses, records, payments, failures, parked, *state[-3:])
        try:
            self._verify(moment)
        except AssertionError as error:
            for move in self._trail:
                error.add_note(f"{move.description} {f'- {move.fault}' if move.fault else ''}")
            raise

    def _following(self, state: State) -> Iterator[tuple[Move, State]]:
        contents, actors, now, faults_left, invoked, uncertain, broken = state
        faults = [] if not faults_left else self._first if faults_left == self._faults else [*Fault]
        alone = self._alone(contents, actors) if self._prunes else None
        for place in range(len(actors)) if alone is None else [alone]:
            for move in self._moves_of(actors[place], contents, now, may_fail=bool(faults)):
                if move.fault is not None and move.fault not in faults:
                    continue
                changed = list(contents)
                if move.content is not None:
                    changed[move.table] = move.content
                yield (
                    move,
                    State(
                        tuple(changed),
                        (*actors[:place], move.actor, *actors[place + 1 :]),
                        move.now,
                        faults_left - (move.fault is not None),
                        invoked + move.invoked,
                        uncertain + move.uncertain,
                        broken + move.broken,
                    ),
                )
        until = self._expiry(contents, actors) if Fault.EXPIRED in faults and alone is None else now
        if until > now:
            expiry = Move("time passes", Fault.EXPIRED, actors[0], until)
            yield expiry, state._replace(now=until, faults_left=faults_left - 1)

    def _alone(self, contents: tuple[int, ...], actors: tuple[int, ...]) -> int | None:
        """Return the place of an actor whose next call commutes with all that the others can still do, if any.

        Nothing is lost if it moves first, with each of its faults. Such are:
        - reads of the ledger that decide nothing here: SaveCallbackRecord's, and the queries after a dispatch;
        - the second delivery's writes to its record and its failure. Its record is too young for healing. Others read
          it to see whether it shows a dispatch, but not before it has claimed, and not once the ledger shows one;
        - writes to the first delivery's record and failure, if only one of the first delivery and its redrive is left;
        - parking, once healing has looked into the queue.
        The time at which such a call is made decides nothing.
        """
        tasks = [self._actors.values[number] for number in actors]
        sharing = [task for task in tasks if isinstance(task, Task) and task.actor != SECOND]
        for place, task in enumerate(tasks):
            if isinstance(task, Ended) or self._is_waiting(task, contents):
                continue
            call = self._call(task)
            if call.table in {None, LEDGER}:
                is_alone = task.state == "SaveCallbackRecord" or call.operation == "Query"
            elif call.table == PARKED_QUEUE:
                is_alone = not any(isinstance(other, Task) and other.state == "TakeParked" for other in tasks)
            elif call.table == RECORDS and task.state in DISPATCHING and not self._is_dispatched(contents):
                is_alone = False
            else:
                is_alone = task.actor == SECOND or len(sharing) == 1
            if is_alone:
                return place
        return None

    def _moves_of(self, number: int, contents: tuple[int, ...], now: int, *, may_fail: bool) -> list[Move]:
        task = self._actors.values[number]
        if isinstance(task, Ended) or self._is_waiting(task, contents):
            return []
        table = STORES.index(self._call(task).table or LEDGER)
        # The ledger has the claim that expires if the task hangs.
        key = (number, contents[table], contents[1], now, may_fail)
        if key not in self._moves:
            since = now if not task.replies else task.since
            self._moves[key] = [
                move._replace(broken=move.fault is not None and _may_keep_a_claim(self._call(task), move.fault))
                for move in self._find_moves(task._replace(since=since), table, contents, now)
            ]
            if not may_fail:
                self._moves[key] = self._moves[key][:1]
        return self._moves[key]

    def _find_moves(self, task: Task, table: int, contents: tuple[int, ...], now: int) -> Iterator[Move]:
        call = self._call(task)
        content, answer = self._evaluate(call, contents[table])
        what = f"{task.actor}: {task.state}: {call.operation} {call.table or 'process-paid'}"
        # Whether or not the task hears of it, the call takes effect.
        effect = {"table": table, "content": content, "invoked": call.table is None}
        # If the task ends here, the ledger is not told that process-paid has been invoked.
        untold = call.finishes_claim
        answered, lost = Reply(now, *answer), Reply(now, None)
        refused = Reply(now, *(INVOKE_THROTTLED if call.table is None else THROTTLED))

        yield Move(what, None, self._reply(task, answered), now, **effect)
        yield Move(what, Fault.REFUSED, self._reply(task, refused, refused), now, uncertain=untold)
        yield Move(what, Fault.LOST, self._reply(task, lost), now, **effect, uncertain=call.table is None)
        if self._replayer.run(task.after(lost)) == call:
            yield Move(what, Fault.LOST_FOR_GOOD, self._reply(task, lost, refused), now, **effect)
        if call.table is None:
            yield Move(what, Fault.UNANSWERED, self._reply(task, lost), now, uncertain=True)
        yield Move(what, Fault.ABORTED, self._resume(self._workflows.abort(task), now), now, uncertain=untold)
        if task.state in OWN_CALLS:
            # It has no process that could die.
            return
        is_last = isinstance(self._replayer.run(task.after(answered)), Outcome)
        for before, (after, error) in DEATHS.items():
            then = max(now, self._own_expiry(task, contents)) if before == Fault.TIMED_OUT else now
            actor = self._resume(self._workflows.follow(task, Outcome(error=error), then), then)
            yield Move(what, before, actor, then, uncertain=untold)
            if is_last:
                yield Move(what, after, actor, then, **effect)

    def _reply(self, task: Task, reply: Reply, again: Reply | None = None) -> int:
        """Return where the actor is after a reply; `again` replies to the client whenever it repeats the call."""
        call, task = self._call(task), task.after(reply)
        while again is not None and self._replayer.run(task) == call:
            task = task.after(again)
        return self._resume(task, reply.at)

    def _resume(self, actor: Actor, now: int) -> int:
        """Let an actor go on to its next call, or to its end."""
        while isinstance(actor, Task) and isinstance(found := self._replayer.run(actor), Outcome):
            actor = self._workflows.follow(actor, found, now)
        return self._actors.of(actor)

    def _call(self, task: Task) -> Call:
        call = self._replayer.run(task)
        assert isinstance(call, Call)
        return call

    def _evaluate(self, call: Call, content: int) -> tuple[int, tuple[int, str]]:
        """Return the table's content after a call, and the answer; an invocation of process-paid changes no table."""
        if call.table is None:
            return content, (202, "")
        changed, status, body = self._replayer.evaluate(call, self._contents.values[content])
        return self._contents.of(changed), (status, body)

    def _items(self, contents: tuple[int, ...], table: str) -> Items:
        return items_of(self._contents.values[contents[STORES.index(table)]])

    def _is_waiting(self, task: Task, contents: tuple[int, ...]) -> bool:
        """Return whether there is nothing yet that healing could redrive."""
        if not task.waits_for_a_failure:
            return False
        request_id = request_id_of(task.data)
        items = [item for store in STORES if store != LEDGER for item in self._items(contents, store)]
        found = [item for item in items if item["requestId"]["S"] == request_id]
        return not any({"undispatchedSince", "queue", "isHidden"} & item.keys() for item in found)

    def _is_dispatched(self, contents: tuple[int, ...]) -> bool:
        return any("dispatchedBy" in payment for payment in self._items(contents, LEDGER))

    def _expiry(self, contents: tuple[int, ...], actors: tuple[int, ...]) -> int:
        """Return when the claim on the payment expires; 0 without one, or while the attempt that holds it runs."""
        tasks = [self._actors.values[number] for number in actors]
        running = {task.attempt_id for task in tasks if isinstance(task, Task) and task.state == "InvokeProcessPaid"}
        return max((at for holder, at in self._claims(contents) if holder not in running), default=0)

    def _own_expiry(self, task: Task, contents: tuple[int, ...]) -> int:
        return max((at for holder, at in self._claims(contents) if holder == task.attempt_id), default=0)

    def _claims(self, contents: tuple[int, ...]) -> Iterator[tuple[str, int]]:
        """Yield the attempt that holds a claim, and when it has expired."""
        for payment in self._items(contents, LEDGER):
            if "attemptId" in payment:
                until = datetime.fromisoformat(payment["claimedUntil"]["S"]) - START
                yield payment["attemptId"]["S"], round(until / timedelta(milliseconds=1)) + 1
