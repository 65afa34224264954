"""What `make run` prints of the callback that it plays, and what it says to type next."""

from dataclasses import dataclass
from typing import Any

import pytest

from local.__main__ import make_command, show_callback
from local.server import Server
from tests.outcomes import body_of

PAID = body_of("paid")


@dataclass
class Desk:
    """Has what became of the callbacks of these request ids, the played one's among others'; its call comes late."""

    request_ids: list[str]
    payload: str = "another"

    def executions(self) -> list[dict[str, Any]]:
        return [
            {"name": request_id, "states": ["Receive", f"Respond to {request_id}"]} for request_id in self.request_ids
        ]

    def records(self) -> list[dict[str, Any]]:
        return [
            {"requestId": request_id, "orderId": "1", "deliveryId": f"2026#{request_id}", "amount": 2}
            for request_id in self.request_ids
        ]

    def process_paid(self) -> list[dict[str, Any]]:
        payload, self.payload = self.payload, PAID
        return [{"payload": "another"}, {"payload": payload}, {"payload": "another"}]


def test_the_callback_that_was_played_is_shown_among_others(service: Any, capsys: pytest.CaptureFixture[str]) -> None:
    service.answers(200, b'{"success": true}', **{"x-amz-apigw-id": "o/w+n="})
    show_callback(Server(service.url, Desk(["earlier", "own", "later"])))
    assert capsys.readouterr().out.splitlines() == [
        f"  request       {PAID}",
        '  answer        200 {"success": true}',
        "  states        Receive > Respond to own",
        "  record        orderId 1, deliveryId 2026#own, amount 2",
        f"  process-paid  called 1x with {PAID}",
    ]


@pytest.mark.parametrize("others", [[], ["earlier", "later"]], ids=["alone", "among others"])
def test_a_callback_that_started_nothing_is_shown_as_such(
    service: Any, capsys: pytest.CaptureFixture[str], others: list[str]
) -> None:
    service.answers(403, b'{"success": false}', **{"x-amz-apigw-id": "o/w+n="})
    show_callback(Server(service.url, Desk(others, payload=PAID)))
    assert capsys.readouterr().out.splitlines() == [
        f"  request       {PAID}",
        '  answer        403 {"success": false}',
        "  states        -",
        "  record        -",
        "  process-paid  not called",
    ]


@pytest.mark.parametrize(("port", "command"), [(3000, "make demo"), (3001, "make demo API_PORT=3001")])
def test_a_command_names_the_port_where_it_is_not_the_default(port: int, command: str) -> None:
    assert make_command("demo", port) == command
