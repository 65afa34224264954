"""`python -m local run` starts the stack and serves it; `python -m local demo` plays events/ against it."""

import argparse
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

from local.desk import PREFIX, Desk
from local.server import Server, sentry_dsn, serving
from local.stack import ROOT, LocalStackError, Stack, require_free_port

CALLBACK_PATH = "/bankapp/callback"
EVENTS = ROOT / "events"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run", help="start the stack and serve it until Ctrl-C")
    run_parser.add_argument("--aws-port", type=int, default=int(os.environ.get("AWS_PORT", "4566")))
    run_parser.add_argument("--state", type=Path, help="a folder that keeps tables and executions for the next start")
    demo_parser = commands.add_parser("demo", help="play every file of events/ against the running stack")
    for command in (run_parser, demo_parser):
        command.add_argument("--api-port", type=int, default=int(os.environ.get("API_PORT", "3000")))
    arguments = parser.parse_args()
    # A shell starts its background jobs deaf to SIGINT.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)
    try:
        if arguments.command == "run":
            run(arguments.api_port, arguments.aws_port, arguments.state)
        else:
            demo(f"http://127.0.0.1:{arguments.api_port}")
    except LocalStackError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped")
    return 0


def run(api_port: int, aws_port: int, state_dir: Path | None) -> None:
    """Start the stack, play one paid callback, and serve until interrupted."""
    require_free_port(api_port, "API_PORT")
    say = Progress()
    with (
        Stack(aws_port, sentry_dsn(api_port), state_dir and state_dir.absolute(), say=say) as stack,
        serving(stack, api_port, say) as server,
    ):
        say(f"Ready; playing {EVENTS.name}/paid.json\n")
        show_callback(server)
        print(f"\nServing        POST {server.url}{CALLBACK_PATH}     Ctrl-C stops it")
        print(f"Look at        {server.url}{PREFIX}     mails, Sentry events, process-paid calls, tables, executions")
        print("Play events/   make demo     in another terminal\n", flush=True)
        signal.pause()


class Progress:
    """Prints each line with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, line: str) -> None:
        print(f"{time.monotonic() - self._start:6.1f} s  {line}", flush=True)


def show_callback(server: Server) -> None:
    """Play one paid callback and print what became of it."""
    body = read_body(EVENTS / "paid.json")
    status, answer, _ = post(server.url, body)
    execution = server.desk.executions()[-1]
    record = server.desk.records()[-1]
    calls = wait_for_calls(server.desk)
    print(f"  request       {body}")
    print(f"  answer        {status} {answer}")
    print(f"  states        {' > '.join(execution['states'])}")
    print(f"  record        {', '.join(f'{name} {record[name]}' for name in ('orderId', 'deliveryId', 'amount'))}")
    print(f"  process-paid  called {len(calls)}x with {calls[-1]['payload'] if calls else '-'}")


def wait_for_calls(desk: Desk, seconds: float = 5) -> list[dict[str, Any]]:
    """Return the calls of process-paid, once there are any: they are asynchronous."""
    deadline = time.monotonic() + seconds
    while not (calls := desk.process_paid()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return calls


def demo(url: str) -> None:
    """Play every file of events/ and print a table of what was answered."""
    print(f"{'event':24}{'status':>6}{'ms':>8}  answer")
    for file in sorted(EVENTS.glob("*.json")):
        try:
            status, answer, seconds = post(url, read_body(file))
        except urllib.error.URLError as error:
            raise LocalStackError(f"Nothing answers at {url}: start it with `make run` ({error.reason})") from error
        print(f"{file.stem:24}{status:>6}{seconds * 1000:>8.0f}  {answer}")


def read_body(event: Path) -> str:
    """Return the request body of an event file."""
    body = json.loads(event.read_text())["body"]
    assert isinstance(body, str)
    return body


def post(url: str, body: str) -> tuple[int, str, float]:
    """Send a callback as the gateway does; return status, body and seconds."""
    request = urllib.request.Request(
        url + CALLBACK_PATH, body.encode(), {"Content-Type": "application/json"}, method="POST"
    )
    started = time.monotonic()
    try:
        response: HTTPResponse | urllib.error.HTTPError = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        return response.status or 0, response.read().decode(), time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
