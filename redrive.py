"""Runs failed callbacks again: one delivery, one order, or all since a time.

Starts the healing workflow, as the console's "Start execution" does, and prints what came of each delivery. What is
dispatched already is not dispatched again.
"""

import argparse
import json
import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

REGION = "ap-southeast-1"
LOCAL_STACK = "payment3-callback-local"
PAGE = 20
POLL_SECONDS = 0.5


class RedriveError(Exception):
    """The healing workflow cannot be run; the message says why."""


def main(arguments: list[str] | None = None) -> int:
    """Return 0 where everything that was found is resolved (or was only listed), else 1.

    Where nothing was found that is 0, too, unless one delivery was asked for.
    """
    options = _parser().parse_args(arguments)
    try:
        client = _client_maker(options)
        machine_arn = _machine_arn(client("cloudformation"), LOCAL_STACK if options.local else options.stack)
        return redrive(client("stepfunctions"), machine_arn, _selection(options))
    except RedriveError as error:
        print(error, file=sys.stderr)
    except (BotoCoreError, ClientError) as error:
        print(f"AWS: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nStopped here; what is being run goes on to its end.", file=sys.stderr)
    return 1


def redrive(stepfunctions: Any, machine_arn: str, selection: dict[str, Any]) -> int:
    """Run the healing workflow page by page; print each delivery and a summary."""
    is_dry_run = selection.get("dryRun", False)
    outcomes: Counter[str] = Counter()
    for page in _pages(stepfunctions, machine_arn, selection):
        for line in _found(page) if is_dry_run else page["results"]:
            outcomes[line["status"]] += 1
            print(_shown(line), flush=True)
    total = sum(outcomes.values())
    if not total and "requestId" in selection:
        print(f"Nothing to run again: no failed delivery {selection['requestId']}, or it is resolved.")
        return 1
    if not total:
        print("Nothing to run again.")
        return 0
    summary = ", ".join(f"{count} {status}" for status, count in outcomes.most_common())
    print(f"{total} would be run again: {summary}" if is_dry_run else f"{total} run again: {summary}")
    return 0 if is_dry_run or set(outcomes) == {"resolved"} else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m redrive", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--request", metavar="ID", help="one delivery, by the request id that answer, mail and log name, or a repeat's"
    )
    what.add_argument("--order", metavar="ID", help="all failed deliveries of an order")
    what.add_argument("--since", metavar="TIME", help="all that failed since a time, such as 2026-11-22T10:00:00+07:00")
    parser.add_argument("--dry-run", action="store_true", help="list them only")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--stack", metavar="NAME", help="the CloudFormation stack, such as payment3-callback-prod")
    where.add_argument("--local", action="store_true", help="the stack of `make run` instead; AWS_PORT is its port")
    parser.add_argument("--region", default=os.environ.get("AWS_REGION", REGION), help="its region (%(default)s)")
    return parser


def _selection(options: argparse.Namespace) -> dict[str, Any]:
    chosen = {"requestId": options.request, "orderId": options.order, "since": options.since}
    selection: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    return selection | {"limit": PAGE} | ({"dryRun": True} if options.dry_run else {})


def _client_maker(options: argparse.Namespace) -> Callable[[str], Any]:
    if not options.local:
        return partial(boto3.client, region_name=options.region)
    return partial(
        boto3.client,
        region_name=REGION,
        endpoint_url=f"http://127.0.0.1:{os.environ.get('AWS_PORT', '4566')}",
        aws_access_key_id="000000000000",
        aws_secret_access_key="local",  # noqa: S106 the emulator takes any
    )


def _machine_arn(cloudformation: Any, stack: str) -> str:
    (described,) = cloudformation.describe_stacks(StackName=stack)["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in described.get("Outputs", [])}
    if "HealingStateMachineArn" not in outputs:
        raise RedriveError(f"The stack {stack} has no output HealingStateMachineArn; is it the callback's?")
    return str(outputs["HealingStateMachineArn"])


def _pages(stepfunctions: Any, machine_arn: str, selection: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the output of one execution after another, until one says that nothing follows."""
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
        raise RedriveError(f"{started['executionArn']} {execution['status']}\n{reason}")
    output: dict[str, Any] = json.loads(execution["output"])
    return output


def _message(cause: str) -> str:
    """Return the message of an exception from what Lambda makes of it, or the cause where it is something else."""
    try:
        return str(json.loads(cause)["errorMessage"])
    except (ValueError, KeyError, TypeError):
        return cause


def _found(page: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"status": "undispatched", **failure} for failure in page["found"]["failures"]]


def _shown(line: dict[str, Any]) -> str:
    what = line.get("lastResult") or line.get("error") or ""
    return f"{line['status']:<12} order {line.get('orderId') or 'unknown':<16} request {line['requestId']:<38} {what}"


if __name__ == "__main__":
    sys.exit(main())
