"""`python -m local run` starts the stack and serves it; `python -m local demo` sends events/ to it."""

import argparse
import json
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

from samcli.yamlhelper import yaml_parse

from local.server import Server, sentry_dsn, serving
from local.stack import ROOT, LocalStackError, Stack, require_free_port
from local.views import PREFIX

CALLBACK_PATH = "/bankapp/callback"
EVENTS = ROOT / "events"
DEFAULT_API_PORT = 3000
SAMPLE = '{"orderId": "482500009001", "paymentId": "pay_1", "userId": "u1", "success": true, "amount": 2339.00}'


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run", help="start the stack and serve it until Ctrl-C")
    run_parser.add_argument(
        "--aws-port",
        type=int,
        default=os.environ.get("AWS_PORT", "4566"),
        help="port of the emulator (%(default)s)",
    )
    run_parser.add_argument("--state", type=Path, help="a folder that keeps tables and executions for the next start")
    run_parser.add_argument(
        "--parameters",
        type=template_parameter,
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="override defaults of template.yaml",
    )
    demo_parser = commands.add_parser("demo", help="send every file of events/ to the running stack")
    for command in (run_parser, demo_parser):
        command.add_argument(
            "--api-port",
            type=int,
            default=os.environ.get("API_PORT", str(DEFAULT_API_PORT)),
            help="port of the API (%(default)s)",
        )
    arguments = parser.parse_args()
    # A shell starts background jobs with SIGINT ignored.
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
    """Return name and value of a template parameter given as NAME=VALUE."""
    name, equals, value = word.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{word!r} is not NAME=VALUE")
    # SAM ignores an unknown name.
    if name not in yaml_parse((ROOT / "template.yaml").read_text())["Parameters"]:
        raise argparse.ArgumentTypeError(f"template.yaml has no parameter {name!r}")
    return name, value


def run(api_port: int, aws_port: int, state_dir: Path | None, parameters: Mapping[str, str]) -> None:
    """Start the stack, send one paid callback, and serve until interrupted."""
    require_free_port(api_port, "API_PORT")
    report = timed_report()
    state_dir = state_dir and state_dir.absolute()
    with (
        Stack(aws_port, sentry_dsn(api_port), state_dir, parameters=parameters, report=report) as stack,
        serving(stack, api_port, report) as server,
    ):
        report(f"Ready; sending {EVENTS.name}/paid.json\n")
        show_callback(server)
        show_commands(server.url, api_port)
        signal.pause()


def timed_report() -> Callable[[str], None]:
    """Return a function that prints a line with the seconds since now."""
    start = time.monotonic()
    return lambda line: print(f"{time.monotonic() - start:6.1f} s  {line}", flush=True)


def show_callback(server: Server) -> None:
    """Send one paid callback and print what happened; a refused callback leaves less to print."""
    body = read_body(EVENTS / "paid.json")
    answer = post(server.url, body)
    known = server.views.order(json.loads(body)["orderId"])
    execution = _first(known["executions"], "name", answer.request_id)
    record = _first(known["records"], "requestId", answer.request_id)
    shown = [f"{name} {record[name]}" for name in ("orderId", "deliveryId", "amount") if name in record]
    calls = sum(call["payload"] == body for call in known["process-paid"])
    print(f"  request       {body}")
    print(f"  answer        {answer.status} {answer.body}")
    print(f"  states        {' > '.join(execution.get('states', [])) or '-'}")
    print(f"  record        {', '.join(shown) or '-'}")
    print(f"  process-paid  {f'called {calls}x with {body}' if calls else 'not called'}")


def show_commands(url: str, api_port: int) -> None:
    """Print what to type next; each command is on a line of its own, to copy."""
    order_id = json.loads(SAMPLE)["orderId"]
    print(
        f"""
Serving {url}{CALLBACK_PATH} until Ctrl-C. In another terminal, send a callback:

  curl -H 'Content-Type: application/json' -d '{SAMPLE}' {url}{CALLBACK_PATH}

Read back the outcome:

  curl {url}{PREFIX}orders/{order_id}

See everything else, and send every file of events/:

  curl {url}{PREFIX}
  {make_command("demo", api_port)}
""",
        flush=True,
    )


def _first(items: list[dict[str, Any]], name: str, value: str) -> dict[str, Any]:
    return next((item for item in items if item[name] == value), {})


def make_command(target: str, api_port: int) -> str:
    """Return the `make` command of a target for this port."""
    return f"make {target}" if api_port == DEFAULT_API_PORT else f"make {target} API_PORT={api_port}"


def demo(api_port: int) -> None:
    """Send every file of events/ and print a table of the answers."""
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
    """An HTTP answer, and the seconds it took."""

    status: int
    body: str
    request_id: str
    seconds: float


def post(url: str, body: str) -> Answer:
    """Send a callback as the bank app's gateway does."""
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
