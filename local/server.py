"""Serves the API and the local views on one port of 127.0.0.1."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any

from werkzeug.serving import make_server

from local.gateway import Gateway, RequestHandler, read_deployed_api
from local.stack import CONCURRENCY, STACK_NAME, Stack
from local.views import PREFIX, Views


@dataclass(frozen=True)
class Server:
    """Where the API is served, and the views of what the stack did."""

    url: str
    views: Views


@contextmanager
def serving(stack: Stack, port: int, report: Callable[[str], None]) -> Iterator[Server]:
    """Serve the deployed API for the duration of a `with` block; `report` receives each request with its status.

    With `WatchApi=true` it also receives the API's access log.
    """

    class Handler(RequestHandler):
        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            # An unreadable request line has no path.
            path = getattr(self, "path", "-")
            if not path.startswith(PREFIX):
                report(f"{self.command} {path} {code}")

    definition, throttle, access_log_format = read_deployed_api(stack.client("cloudformation"), STACK_NAME)
    gateway = Gateway(definition, stack.client("stepfunctions"), throttle, CONCURRENCY, access_log_format, report)
    views = Views(stack)

    def application(environ: Any, start_response: Any) -> Any:
        chosen = views if f"{environ['PATH_INFO']}/".startswith(PREFIX) else gateway
        return chosen(environ, start_response)

    server = make_server("127.0.0.1", port, application, threaded=True, request_handler=Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{port}", views)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def sentry_dsn(port: int) -> str:
    """Return the DSN at which the server receives Sentry's envelopes."""
    return f"http://local@127.0.0.1:{port}{PREFIX}sentry/1"
