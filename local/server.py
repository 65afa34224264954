"""Serves the API and the local views on one port of 127.0.0.1."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server

from local.desk import PREFIX, Desk
from local.gateway import Gateway, deployed_definition, deployed_throttle
from local.stack import CONCURRENCY, STACK_NAME, Stack


@dataclass(frozen=True)
class Server:
    """Where the API is served, and what there is to look at."""

    url: str
    desk: Desk


@contextmanager
def serving(stack: Stack, port: int, say: Callable[[str], None]) -> Iterator[Server]:
    """Serve the deployed API for the time of a `with` block; `say` is told of each request and its status."""

    class Handler(WSGIRequestHandler):
        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            # A request line that cannot be read leaves no path.
            path = getattr(self, "path", "-")
            if not path.startswith(PREFIX):
                say(f"{self.command} {path} {code}")

    cloudformation = stack.client("cloudformation")
    definition = deployed_definition(cloudformation, STACK_NAME)
    throttle = deployed_throttle(cloudformation, STACK_NAME)
    desk = Desk(stack)

    def application(environ: Any, start_response: Any) -> Any:
        chosen = desk if f"{environ['PATH_INFO']}/".startswith(PREFIX) else gateway
        return chosen(environ, start_response)

    gateway = Gateway(definition, stack.client("stepfunctions"), throttle, CONCURRENCY)
    server = make_server("127.0.0.1", port, application, threaded=True, request_handler=Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{port}", desk)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def sentry_dsn(port: int) -> str:
    """Return the DSN under which the server takes Sentry's envelopes."""
    return f"http://local@127.0.0.1:{port}{PREFIX}sentry/1"
