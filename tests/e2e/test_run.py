"""`make run` and `make demo` as a newcomer uses them."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from local.__main__ import SAMPLE, post
from local.stack import ROOT, free_ports
from tests.commands import readme_commands
from tests.outcomes import FAILURE_MESSAGE, OUTCOMES, body_of
from tests.workflow.paths import PAID

START_SECONDS = 180

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc, which only Linux has")


@contextmanager
def running(output: Path, *variables: str) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """Start `make run` on free ports and wait until it serves; yield the process and its two ports."""
    api_port, aws_port = free_ports(2)
    # The tests must not rebuild the environment from which they run.
    make = ["make", "--silent", "--old-file=.venv/ready", "run"]
    command = [*make, f"API_PORT={api_port}", f"AWS_PORT={aws_port}", *variables]
    with output.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while "Serving" not in output.read_text():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.2)
        yield process, api_port, aws_port
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)


def get(port: int, view: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/_local/{view}", timeout=30) as response:
        return json.load(response)


def listening_addresses(port: int) -> set[str]:
    """Return the addresses that listen on a port, as the kernel writes them."""
    rows = [row.split() for family in ("tcp", "tcp6") for row in Path("/proc/net", family).read_text().splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port}


def processes_with(text: str) -> list[str]:
    lines = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if text.encode() in file.read_bytes():
                lines.append(file.with_name("cmdline").read_text().replace("\0", " "))
        except OSError:  # it has just ended
            continue
    return lines


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)


def run_local(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(sys.executable, "-m", "local", *arguments)


def test_it_shows_a_callback_keeps_its_state_and_leaves_nothing_behind(tmp_path: Path) -> None:
    output, state = tmp_path / "output", f"STATE={tmp_path / 'state'}"
    called_once = f"process-paid  called 1x with {body_of('paid')}\n"
    with running(output, state) as (process, api_port, aws_port):
        shown = output.read_text()
        assert "answer        200" in shown
        assert f"states        {' > '.join(PAID)}\n" in shown
        assert called_once in shown
        assert f"  make demo API_PORT={api_port}\n" in shown
        loopback = "0100007F"
        assert listening_addresses(api_port) == listening_addresses(aws_port) == {loopback}
        assert listening_addresses(8883) == set()

        of_readme = [command.replace(":3000/", f":{api_port}/") for command in readme_commands()]
        printed = [line.strip() for line in shown.splitlines() if line.startswith("  curl")]
        assert printed[:2] == [command for command in of_readme if command.startswith("curl")][:2]
        send, read, *_ = (shlex.split(line) for line in shown.splitlines() if line.startswith("  curl"))
        sent = run_command(*send, "--silent", "--show-error")
        assert json.loads(sent.stdout)["processing"] is True, sent.stderr
        outcome = json.loads(run_command(*read, "--silent", "--show-error").stdout)
        assert [execution["answer"]["body"] for execution in outcome["executions"]] == [json.loads(sent.stdout)]
        assert [record["paymentId"] for record in outcome["records"]] == ["pay_1"]
        assert [call["payload"] for call in outcome["process-paid"]] == [SAMPLE]
        assert outcome["errors"] == outcome["mails"] == outcome["sentry"] == []

        demo = run_local("demo", "--api-port", str(api_port))
        played = {line.split()[0]: int(line.split()[1]) for line in demo.stdout.splitlines()[1:]}
        assert played == {name: outcome.status for name, outcome in OUTCOMES.items()}

        assert processes_with(f"GATEWAY_PORT={aws_port}")
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
        assert "Stopped" in output.read_text()
        assert processes_with(f"GATEWAY_PORT={aws_port}") == []

    with running(output, state) as (_, api_port, _):
        # The state of the first start has the payment's one call; this delivery is a duplicate.
        assert called_once in output.read_text()
        # One callback of each start, the printed command, and the demo's.
        recorded = sum(outcome.status == 200 for outcome in OUTCOMES.values())
        assert len(get(api_port, "records")) == 3 + recorded


def test_parameters_are_deployed_and_a_refused_callback_is_shown(tmp_path: Path) -> None:
    output = tmp_path / "output"
    parameters = "PARAMETERS=SignatureMode=enforce ThrottleRate=1 ThrottleBurst=3"
    with running(output, parameters) as (_, api_port, _):
        shown = output.read_text()
        assert "answer        500" in shown
        assert "VerifySignature > " in shown
        assert "record        -\n" in shown
        assert "process-paid  not called\n" in shown

        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda _: post(f"http://127.0.0.1:{api_port}", body_of("paid")), range(10)))
        statuses = Counter(answer.status for answer in answers)
        assert statuses.keys() == {429, 500}
        assert statuses[429] >= 5
        assert {answer.body for answer in answers if answer.status == 429} == {
            json.dumps({"success": False, "error": "Too Many Requests", "message": FAILURE_MESSAGE})
        }
        assert len(get(api_port, "executions")) == 1 + statuses[500]


@pytest.mark.parametrize(
    ("word", "error"),
    [("SignatureMode", "'SignatureMode' is not NAME=VALUE"), ("SignatureMod=on", "has no parameter 'SignatureMod'")],
)
def test_an_unknown_parameter_is_reported_clearly(word: str, error: str) -> None:
    run = run_local("run", "--parameters", "ThrottleRate=1", word)
    assert run.returncode == 2
    assert error in run.stderr


def test_a_port_in_use_is_reported_clearly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option, variable in (("--api-port", "API_PORT"), ("--aws-port", "AWS_PORT")):
            run = run_local("run", "--api-port", str(free_ports(1)[0]), option, str(port))
            assert run.returncode == 1
            assert run.stderr.startswith(f"Port {port} is in use: ")
            assert f"{variable}=" in run.stderr


def test_a_demo_without_a_stack_says_what_to_start() -> None:
    (port,) = free_ports(1)
    run = run_local("demo", "--api-port", str(port))
    assert run.returncode == 1
    assert f"make run API_PORT={port}`" in run.stderr
