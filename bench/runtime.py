"""Runs a function in a process of its own under AWS's runtime client, fed by a Runtime API like that of Lambda."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Self

from package import LAMBDA_DIR

PREFIX = "/2018-06-01/runtime/"
WAIT_SECONDS = 60
# Lambda's interpreter has nothing of our .venv.
INTERPRETER = str(Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}"))


class ContainerError(RuntimeError):
    """The function's process could not be used; the message has what it printed."""


@dataclass(frozen=True)
class Invocation:
    """One call: its milliseconds of CPU and on the wall clock, its answer, and what it logged."""

    cpu_ms: float
    wall_ms: float
    answer: Any
    is_error: bool
    log: str


class Container:
    """A function's process, for the duration of a `with` block.

    `code` is the folder of the function with its libraries, `runtime_client` the one of awslambdaric. `init_cpu_ms` is
    the CPU from the start of the interpreter until the function asks for its first event.
    """

    def __init__(
        self,
        code: Path,
        handler: str,
        environment: Mapping[str, str],
        runtime_client: Path,
        timeout_seconds: float = 30,
    ) -> None:
        self._code, self._handler, self._runtime_client = code, handler, runtime_client
        self._environment, self._timeout = environment, timeout_seconds
        self._events: SimpleQueue[tuple[str, bytes] | None] = SimpleQueue()
        self._asked: SimpleQueue[None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[bool, bytes]] = SimpleQueue()

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            server = ThreadingHTTPServer(("127.0.0.1", 0), self._make_handler())
            server.daemon_threads = True
            exits.callback(server.server_close)
            Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            exits.callback(server.shutdown)
            self._log = Path(exits.enter_context(TemporaryDirectory(prefix="payment3-bench-")), "log")
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [INTERPRETER, "-m", "awslambdaric", self._handler],
                    cwd=self._code,
                    env={
                        "PATH": os.environ.get("PATH", os.defpath),
                        "PYTHONPATH": str(self._runtime_client),
                        "PYTHONDONTWRITEBYTECODE": "1",
                        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}",
                        "LAMBDA_TASK_ROOT": str(self._code),
                        "AWS_LAMBDA_FUNCTION_NAME": "bench",
                        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
                        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769",
                        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/bench",
                        "AWS_LAMBDA_LOG_STREAM_NAME": "2026/11/25/[$LATEST]0123456789abcdef0123456789abcdef",
                        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
                        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.12",
                        "LANG": "en_US.UTF-8",
                        "TZ": ":UTC",
                        **self._environment,
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            exits.callback(self._process.wait)
            exits.callback(self._process.kill)
            exits.callback(self._events.put, None)
            self._await_question()
            self.init_cpu_ms = self._cpu_ms()
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._exits.close()

    def invoke(self, event: str) -> Invocation:
        """Let the function handle an event, given as JSON. Raises ContainerError if its process dies."""
        before, started, logged = self._cpu_ms(), time.perf_counter(), self._log.stat().st_size
        self._events.put((str(uuid.uuid4()), event.encode()))
        try:
            is_error, answer = self._answers.get(timeout=WAIT_SECONDS)
        except Empty as error:
            raise ContainerError(self._log.read_text()[-2000:]) from error
        wall = time.perf_counter() - started
        self._await_question()
        with self._log.open("rb") as log:
            log.seek(logged)
            # A stack trace names the files as Lambda would.
            text = log.read().decode().replace(str(self._code), LAMBDA_DIR)
        return Invocation(self._cpu_ms() - before, wall * 1000, json.loads(answer), is_error, text)

    def _await_question(self) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                return self._asked.get(timeout=0.5)
            except Empty:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise ContainerError(self._log.read_text()[-2000:]) from None

    def _cpu_ms(self) -> float:
        """Return the CPU of all the process's threads; Linux makes a process's clock from its id."""
        return time.clock_gettime((~self._process.pid << 3) | 2) * 1000

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        container = self

        class RuntimeApi(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Otherwise a kept connection waits 40 ms for the acknowledgement of the headers.
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                container._asked.put(None)
                event = container._events.get()
                if event is None:
                    self.close_connection = True
                    return
                request_id, body = event
                self.send_response(200)
                for name, value in {
                    "Lambda-Runtime-Aws-Request-Id": request_id,
                    "Lambda-Runtime-Deadline-Ms": str(int((time.time() + container._timeout) * 1000)),
                    "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:ap-southeast-1:123456789012:function:bench",
                    "Lambda-Runtime-Trace-Id": "Root=1-67891233-abcdef012345678912345678;Sampled=1",
                    "Content-Type": "application/json",
                    "Content-Length": str(len(body)),
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                answer = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()
                if self.path.startswith(f"{PREFIX}invocation/"):
                    container._answers.put((self.path.endswith("/error"), answer))

            def log_message(self, *_: object) -> None:
                pass

        return RuntimeApi
