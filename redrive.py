"""Redrives failed deliveries: one delivery, one order, or all since a time.

Starts the healing workflow, as the console's "Start execution" does, and prints the outcome of each delivery. A payment
that was dispatched is not dispatched again, unless an operator decides so with --again or --accept. What a check has
refused must pass that check, unless an operator decides with --despite that it need not. Each decision asks for
confirmation, and is kept on the failure with the caller's ARN and the reason.
"""

import argparse
import json
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

import stacks
from stacks import StackError

PAGE = 100
EVERYTHING = {"since": "1970-01-01T00:00:00Z", "refused": True}
MAX_REASON_CHARACTERS = 500
QUESTIONS = {
    "again": "Dispatch payment {payment} of order {order} again? Process-paid may have received it before.",
    "accept": "Dispatch payment {payment} of order {order} as this delivery says? It contradicts an earlier one.",
    "despite": "Dispatch payment {payment} of order {order} if it passes the checks of today? It was refused before.",
    "dismiss": "Dismiss the failed delivery of payment {payment} of order {order}? Nothing will be dispatched for it.",
}
POLL_SECONDS = 0.5


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if every failure that was found is resolved, or was only listed, else 1.

    Finding none also returns 0, unless a single delivery was requested. A decision that is not confirmed returns 1.
    """
    options = _options(sys.argv[1:] if arguments is None else arguments)
    try:
        client = stacks.client_maker(options)
        machine_arn = stacks.output_of(client("cloudformation"), options, "HealingStateMachineArn")
        if options.digest:
            return send_digest(client("stepfunctions"), machine_arn)
        if options.list:
            return list_unresolved(client("stepfunctions"), machine_arn)
        if options.action is None:
            return redrive(client("stepfunctions"), machine_arn, _selection(options))
        decision = _decision(options, client("sts").get_caller_identity()["Arn"])
        delivery = {"requestId": options.request} | ({"orderId": options.of_order} if options.of_order else {})
        return decide(client("stepfunctions"), machine_arn, delivery, decision, is_confirmed=options.yes)
    except StackError as error:
        print(error, file=sys.stderr)
    except (BotoCoreError, ClientError) as error:
        print(stacks.explain(error, options), file=sys.stderr)
    except KeyboardInterrupt:
        print("\nStopped; the redrives in progress still finish.", file=sys.stderr)
    return 1


def redrive(stepfunctions: Any, machine_arn: str, selection: dict[str, Any]) -> int:
    """Run the healing workflow page by page; print each delivery and a summary. Return the exit code."""
    is_dry_run = selection.get("dryRun", False)
    outcomes: Counter[str] = Counter()
    for page in _pages(stepfunctions, machine_arn, selection):
        for line in _listed(page) if is_dry_run else _outcomes(page):
            outcomes[line["status"]] += 1
            print(_line_of(line), flush=True)
    if "since" in selection and not selection.get("refused"):
        print("Refused callbacks are left out; --refused includes them.")
    total = sum(outcomes.values())
    if not total and "requestId" in selection:
        print(f"Nothing to redrive: no failed delivery {selection['requestId']}, or it is resolved.")
        return 1
    if not total:
        print("Nothing to redrive.")
        return 0
    summary = ", ".join(f"{count} {status}" for status, count in outcomes.most_common())
    print(f"{total} would be redriven: {summary}" if is_dry_run else f"{total} redriven: {summary}")
    return 0 if is_dry_run or set(outcomes) == {"resolved"} else 1


def list_unresolved(stepfunctions: Any, machine_arn: str) -> int:
    """Print each delivery that is not resolved, and how many failed alike. Return the exit code."""
    kinds: Counter[tuple[str, str, str]] = Counter()
    for page in _pages(stepfunctions, machine_arn, {**EVERYTHING, "dryRun": True, "limit": PAGE}):
        for line in _listed(page):
            kinds[line["status"], line.get("step", "unknown"), line.get("error", "unknown")] += 1
            print(_line_of(line), flush=True)
    for (status, step, error), count in kinds.most_common():
        print(f"{count} {status}: {step} {error}")
    print(f"{kinds.total()} unresolved")
    return 0


def send_digest(stepfunctions: Any, machine_arn: str) -> int:
    """Let the healing workflow e-mail operators what waits for them. Return the exit code."""
    digest = _run(stepfunctions, machine_arn, {"digest": True})["digest"]
    is_sent = digest["messageId"] is not None
    print("The e-mail is sent." if is_sent else "No e-mail is sent, because nothing waits.")
    print(f"Waiting for an operator or given up: {digest['failures']}")
    print(f"Not listed, because anybody can have caused them: {digest['fromAnyone']}")
    return 0


def decide(
    stepfunctions: Any, machine_arn: str, delivery: dict[str, str], decision: dict[str, str], *, is_confirmed: bool
) -> int:
    """Show the failed delivery, ask unless `is_confirmed`, and carry the decision out. Return the exit code."""
    selection = {**delivery, "decision": decision}
    failures = _run(stepfunctions, machine_arn, {**selection, "dryRun": True})["found"]["failures"]
    if not failures:
        print(f"No failed delivery of the id {delivery['requestId']}.")
        return 1
    (failure,) = failures
    # A delivery that never failed has no failure yet.
    error, cause = failure.get("error"), failure["cause"]
    failure = {"status": "recorded", "orderId": delivery.get("orderId"), "chargeId": None} | failure
    print(_line_of(failure | {"lastResult": f"{error}: {_message(cause)}" if error else "has not failed"}))
    question = QUESTIONS[decision["action"]].format(
        payment=failure["chargeId"] or "unknown", order=failure["orderId"] or "unknown"
    )
    if not (is_confirmed or stacks.is_yes(question)):
        print("Nothing was changed.")
        return 1
    (outcome,) = _outcomes(_run(stepfunctions, machine_arn, selection))
    print(_line_of(outcome))
    return 0 if outcome["status"] == "resolved" else 1


def _options(arguments: list[str]) -> argparse.Namespace:
    """Read the command's options; exit with 2 if they do not go together."""
    parser = _parser()
    options = parser.parse_args(_join_values(arguments))
    reason = options.reason
    if options.refused and options.since is None:
        parser.error("--refused goes with --since; --request and --order include refused callbacks")
    if (options.digest or options.list) and (options.dry_run or options.action is not None):
        parser.error("--digest and --list take no --dry-run and no decision")
    if options.action is None:
        if reason is not None or options.yes or options.of_order:
            parser.error("--reason, --of-order and --yes go with --again, --accept, --despite or --dismiss")
        return options
    if not options.request or reason is None or options.dry_run:
        parser.error(f"--{options.action} needs --request and --reason, and takes no --dry-run")
    if not (reason.strip() and reason.isprintable() and len(reason) <= MAX_REASON_CHARACTERS):
        parser.error(f"--reason must have 1 to {MAX_REASON_CHARACTERS} printable characters")
    return options


def _decision(options: argparse.Namespace, by: str) -> dict[str, str]:
    """Return a new decision; its id makes sure that it is carried out at most once."""
    return {"id": str(uuid.uuid4()), "action": options.action, "by": by, "reason": options.reason}


def _join_values(arguments: list[str]) -> list[str]:
    """Turn `--request ID` into `--request=ID`: argparse takes an ID that begins with a hyphen for an option."""
    words = iter(arguments)
    with_value = ("--request", "--order", "--of-order", "--reason")
    return [
        f"{word}={value}" if word in with_value and (value := next(words, None)) is not None else word for word in words
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m redrive", description=__doc__, allow_abbrev=False)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--request", metavar="ID", help="one delivery, by its request id from the answer, e-mail or log")
    what.add_argument("--order", metavar="ID", help="all failed deliveries of an order")
    what.add_argument("--since", metavar="TIME", help="all failures since a time, such as 2026-11-22T10:00:00+07:00")
    what.add_argument("--list", action="store_true", help="redrive nothing; list and count all that is unresolved")
    parser.add_argument("--refused", action="store_true", help="with --since: also refused callbacks")
    what.add_argument("--digest", action="store_true", help="redrive nothing; e-mail operators what waits for them")
    parser.add_argument("--dry-run", action="store_true", help="only list the failures")
    decision = parser.add_mutually_exclusive_group()
    for action, text in (
        ("again", "dispatch the payment once more, although it counts as dispatched or may have been"),
        ("accept", "dispatch the delivery although it contradicts an earlier one of the payment or order"),
        ("despite", "redrive what a check has refused, with the checks as strict as today"),
        ("dismiss", "resolve the failure without a redrive"),
    ):
        decision.add_argument(f"--{action}", dest="action", action="store_const", const=action, help=text)
    parser.add_argument("--of-order", metavar="ID", help="with --request: the delivery's order, if it never failed")
    parser.add_argument("--reason", metavar="TEXT", help="why you decide so")
    parser.add_argument("--yes", action="store_true", help="decide without being asked")
    stacks.add_options(parser)
    return parser


def _selection(options: argparse.Namespace) -> dict[str, Any]:
    chosen = {"requestId": options.request, "orderId": options.order, "since": options.since}
    selection: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    flags = {"dryRun": options.dry_run, "refused": options.refused}
    return selection | {"limit": PAGE} | {name: True for name, is_given in flags.items() if is_given}


def _pages(stepfunctions: Any, machine_arn: str, selection: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the output of each execution until one has no next page."""
    while True:
        output = _run(stepfunctions, machine_arn, selection)
        yield output
        if not output["found"]["next"]:
            return
        selection = selection | {"after": output["found"]["next"]}


def _run(stepfunctions: Any, machine_arn: str, selection: dict[str, Any]) -> dict[str, Any]:
    started = stepfunctions.start_execution(
        stateMachineArn=machine_arn, name=f"by-hand-{uuid.uuid4()}", input=json.dumps(selection)
    )
    while (execution := stepfunctions.describe_execution(executionArn=started["executionArn"]))["status"] == "RUNNING":
        time.sleep(POLL_SECONDS)
    if execution["status"] != "SUCCEEDED":
        reason = f"{execution.get('error', '')}: {_message(execution.get('cause', ''))}"
        raise StackError(f"{started['executionArn']} {execution['status']}\n{reason}")
    output: dict[str, Any] = json.loads(execution["output"])
    return output


def _message(cause: str) -> str:
    """Return the message of a Lambda error, or any other cause unchanged; this command runs without functions/."""
    try:
        return str(json.loads(cause)["errorMessage"])
    except (ValueError, KeyError, TypeError):
        return cause


def _listed(page: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"status": "undispatched", **failure} for failure in page["found"]["failures"]]


def _outcomes(page: dict[str, Any]) -> list[dict[str, Any]]:
    """Return how each redrive ended, with its order."""
    orders = {failure["requestId"]: failure.get("orderId") for failure in page["found"]["failures"]}
    return [{**result, "orderId": orders[result["requestId"]]} for result in page.get("results", [])]


def _line_of(line: dict[str, Any]) -> str:
    what = line.get("lastResult") or line.get("error") or ""
    return f"{line['status']:<12} order {line.get('orderId') or 'unknown':<16} request {line['requestId']:<38} {what}"


if __name__ == "__main__":
    sys.exit(main())
