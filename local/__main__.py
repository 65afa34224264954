"""`python -m local run` starts the stack and serves it; `python -m local demo` plays events/ against it."""

import argparse
import json
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

from local.desk import PREFIX, Desk
from local.server import Server, sentry_dsn, serving
from local.stack import ROOT, LocalStackError, Stack, require_free_port

CALLBACK_PATH = "/bankapp/callback"
EVENTS = ROOT / "events"
DEFAULT_API_PORT = 3000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run", help="start the stack and serve it until Ctrl-C")
    run_parser.add_argument("--aws-port", type=int, default=int(os.environ.get("AWS_PORT", "4566")))
    run_parser.add_argument("--state", type=Path, help="a folder that keeps tables and executions for the next start")
    run_parser.add_argument(
        "--parameters",
        type=template_parameter,
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="parameters of template.yaml, where others than its defaults are wanted",
    )
    demo_parser = commands.add_parser("demo", help="play every file of events/ against the running stack")
    for command in (run_parser, demo_parser):
        command.add_argument("--api-port", type=int, default=int(os.environ.get("API_PORT", DEFAULT_API_PORT)))
    arguments = parser.parse_args()
    # A shell starts its background jobs deaf to SIGINT.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)
    try:
        if arguments.command == "run":
            run(arguments.api_port, arguments.aws_port, arguments.state, dict(arguments.parameters))
        else:
            demo(arguments.api_port)
    except LocalStackError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped")
    return 0


def template_parameter(word: str) -> tuple[str, str]:
    """Return name and value of a parameter of the template, given as NAME=VALUE."""
    name, equals, value = word.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{word!r} is not NAME=VALUE")
    # SAM passes over a name that the template does not have.
    if name not in yaml_parse((ROOT / "template.yaml").read_text())["Parameters"]:
        raise argparse.ArgumentTypeError(f"template.yaml has no parameter {name!r}")
    return name, value


def run(api_port: int, aws_port: int, state_dir: Path | None, parameters: Mapping[str, str]) -> None:
    """Start the stack, play one paid callback, and serve until interrupted."""
    require_free_port(api_port, "API_PORT")
    say = Progress()
    state_dir = state_dir and state_dir.absolute()
    with (
        Stack(aws_port, sentry_dsn(api_port), state_dir, parameters=parameters, say=say) as stack,
        serving(stack, api_port, say) as server,
    ):
        say(f"Ready; playing {EVENTS.name}/paid.json\n")
        show_callback(server)
        print(f"\nServing        POST {server.url}{CALLBACK_PATH}     Ctrl-C stops it")
        print(f"Look at        {server.url}{PREFIX}     mails, Sentry events, process-paid calls, tables, executions")
        print(f"Play events/   {make_command('demo', api_port)}     in another terminal\n", flush=True)
        signal.pause()


class Progress:
    """Prints each line with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, line: str) -> None:
        print(f"{time.monotonic() - self._start:6.1f} s  {line}", flush=True)


def show_callback(server: Server) -> None:
    """Play one paid callback and print what became of it; a refused one leaves less to be seen."""
    body = read_body(EVENTS / "paid.json")
    answer = post(server.url, body)
    execution = _first(server.desk.executions(), "name", answer.request_id)
    record = _first(server.desk.records(), "requestId", answer.request_id)
    kept = [f"{name} {record[name]}" for name in ("orderId", "deliveryId", "amount") if name in record]
    calls = wait_for_calls(server.desk, body) if answer.status == 200 else []
    print(f"  request       {body}")
    print(f"  answer        {answer.status} {answer.body}")
    print(f"  states        {' > '.join(execution.get('states', [])) or '-'}")
    print(f"  record        {', '.join(kept) or '-'}")
    print(f"  process-paid  {f'called {len(calls)}x with {body}' if calls else 'not called'}")


def _first(items: list[dict[str, Any]], name: str, value: str) -> dict[str, Any]:
    return next((item for item in items if item[name] == value), {})


def wait_for_calls(desk: Desk, payload: str, seconds: float = 5) -> list[dict[str, Any]]:
    """Return the calls of process-paid with this payload, once there are any: they are asynchronous."""
    deadline = time.monotonic() + seconds
    while True:
        calls = [call for call in desk.process_paid() if call["payload"] == payload]
        if calls or time.monotonic() > deadline:
            return calls
        time.sleep(0.1)


def make_command(target: str, api_port: int) -> str:
    """Return how to make a target of the Makefile for this port."""
    return f"make {target}" if api_port == DEFAULT_API_PORT else f"make {target} API_PORT={api_port}"


def demo(api_port: int) -> None:
    """Play every file of events/ and print a table of what was answered."""
    url = f"http://127.0.0.1:{api_port}"
    print(f"{'event':24}{'status':>6}{'ms':>8}  answer")
    for file in sorted(EVENTS.glob("*.json")):
        try:
            answer = post(url, read_body(file))
        except urllib.error.URLError as error:
            start = make_command("run", api_port)
            raise LocalStackError(f"Nothing answers at {url}: start it with `{start}` ({error.reason})") from error
        print(f"{file.stem:24}{answer.status:>6}{answer.seconds * 1000:>8.0f}  {answer.body}")


def read_body(event: Path) -> str:
    """Return the request body of an event file."""
    body = json.loads(event.read_text())["body"]
    assert isinstance(body, str)
    return body


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, and how long it took."""

    status: int
    body: str
    request_id: str
    seconds: float


def post(url: str, body: str) -> Answer:
    """Send a callback as the gateway does."""
    request = urllib.request.Request(
        url + CALLBACK_PATH, body.encode(), {"Content-Type": "application/json"}, method="POST"
    )
    started = time.monotonic()
    try:
        response: HTTPResponse | urllib.error.HTTPError = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        text = response.read().decode()
        request_id = re.sub("[^A-Za-z0-9_-]", "", response.headers["x-amz-apigw-id"])
        return Answer(response.status or 0, text, request_id, time.monotonic() - started)


if __name__ == "__main__":
    sys.exit(main())
