"""What `make run` prints about its sample callback, and the commands that it offers."""

import json
import shlex
from typing import Any

import pytest

from local.__main__ import SAMPLE, make_command, show_callback, show_commands
from local.server import Server
from local.views import Views
from tests.outcomes import body_of
from tests.unit.kit import Json, Service

PAID = body_of("paid")


class PlayedViews(Views):
    """Knows an order with these request ids, and the payloads with which process-paid was called."""

    def __init__(self, request_ids: list[str], payloads: list[str]) -> None:
        no_stack: Any = None
        super().__init__(no_stack)
        self._request_ids = request_ids
        self._payloads = payloads

    def order(self, order_id: str) -> Json:
        assert order_id == json.loads(PAID)["orderId"]
        return {
            "executions": [{"name": name, "states": ["Receive", f"Respond to {name}"]} for name in self._request_ids],
            "records": [
                {"requestId": name, "orderId": "1", "deliveryId": f"2026#{name}", "amount": 2}
                for name in self._request_ids
            ],
            "process-paid": [{"payload": payload} for payload in self._payloads],
        }


def test_the_sample_callback_is_shown_among_others(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.answers(200, b'{"success": true}', **{"x-amz-apigw-id": "o/w+n="})
    show_callback(Server(service.url, PlayedViews(["earlier", "own", "later"], ["another", PAID, "another"])))
    assert capsys.readouterr().out.splitlines() == [
        f"  request       {PAID}",
        '  answer        200 {"success": true}',
        "  states        Receive > Respond to own",
        "  record        orderId 1, deliveryId 2026#own, amount 2",
        f"  process-paid  called 1x with {PAID}",
    ]


@pytest.mark.parametrize("others", [[], ["earlier", "later"]], ids=["alone", "among others"])
def test_a_callback_that_started_nothing_is_shown_as_such(
    service: Service, capsys: pytest.CaptureFixture[str], others: list[str]
) -> None:
    service.answers(403, b'{"success": false}', **{"x-amz-apigw-id": "o/w+n="})
    show_callback(Server(service.url, PlayedViews(others, ["another"])))
    assert capsys.readouterr().out.splitlines() == [
        f"  request       {PAID}",
        '  answer        403 {"success": false}',
        "  states        -",
        "  record        -",
        "  process-paid  not called",
    ]


@pytest.mark.parametrize(("port", "demo"), [(3000, "make demo"), (3001, "make demo API_PORT=3001")])
def test_the_printed_commands_can_be_copied(capsys: pytest.CaptureFixture[str], port: int, demo: str) -> None:
    url = f"http://127.0.0.1:{port}"
    show_commands(url, port)
    printed = capsys.readouterr().out.splitlines()
    commands = [shlex.split(line) for line in printed if line.startswith("  ")]
    assert commands == [
        ["curl", "-H", "Content-Type: application/json", "-d", SAMPLE, f"{url}/bankapp/callback"],
        ["curl", f"{url}/_local/orders/482500009001"],
        ["curl", f"{url}/_local/"],
        demo.split(),
    ]


@pytest.mark.parametrize(("port", "command"), [(3000, "make demo"), (3001, "make demo API_PORT=3001")])
def test_a_command_names_the_port_unless_it_is_the_default(port: int, command: str) -> None:
    assert make_command("demo", port) == command
