"""How the operators' commands reach a stack: on AWS, or the one of `make run`."""

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import boto3

REGION = "ap-southeast-1"
LOCAL_STACK = "payment3-callback-local"


class StackError(Exception):
    """The command cannot do its work; the message says why."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the stack."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--stack", metavar="NAME", help="the CloudFormation stack, such as payment3-callback-prod")
    where.add_argument("--local", action="store_true", help="the stack of `make run`, at AWS_PORT")
    parser.add_argument("--region", default=os.environ.get("AWS_REGION", REGION), help="its region (%(default)s)")


def client_maker(options: argparse.Namespace) -> Callable[[str], Any]:
    """Return a function that makes the client of an AWS service."""
    if not options.local:
        return partial(boto3.client, region_name=options.region)
    return partial(
        boto3.client,
        region_name=REGION,
        endpoint_url=f"http://127.0.0.1:{os.environ.get('AWS_PORT', '4566')}",
        aws_access_key_id="000000000000",
        aws_secret_access_key="local",  # noqa: S106 the emulator accepts any
    )


def explain(error: Exception, options: argparse.Namespace) -> str:
    """Return what to print about an error of AWS, or of the emulator."""
    hint = " Does `make run` serve the stack, with this AWS_PORT?" if options.local else ""
    return f"AWS: {error}{hint}"


def is_yes(question: str) -> bool:
    """Ask the operator; return whether the answer is yes."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def output_of(cloudformation: Any, options: argparse.Namespace, key: str) -> str:
    """Return an output of the stack. Raises StackError if it has none of that name."""
    name = LOCAL_STACK if options.local else options.stack
    (described,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in described.get("Outputs", [])}
    if key not in outputs:
        raise StackError(f"The stack {name} has no output {key}; is it the callback's?")
    return str(outputs[key])
