"""Runs ministack so that the parts we use behave as on AWS. Start it as `python -m local.emulator`.

Each function below removes one difference from AWS by patching ministack's internals, so its version is pinned.
"""

import hashlib
import io
import json
import os
import signal
import sys
import tempfile
import threading
import uuid
import zipfile
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partialmethod
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import boto3
from ministack import app
from ministack.core import iam_actions, lambda_runtime
from ministack.services import lambda_svc, stepfunctions

ERROR_REPLY = 'json.dumps({"status": "error", "error": str(e), "trace": traceback.format_exc()})'
# ministack stops a process that replies with an error; on AWS the process survives an exception.
NAMED_ERROR_REPLY = (
    'json.dumps({"status": "ok", "result": {"$raised": {"errorType": type(e).__name__, "errorMessage": str(e)}}})'
)


def main() -> None:
    """Serve until SIGTERM, or until the parent process ends."""
    with tempfile.TemporaryDirectory(prefix="payment3-emulator-", ignore_cleanup_errors=True) as directory:
        tempfile.tempdir = os.environ["TMPDIR"] = directory
        name_errors_as_lambda_does()
        isolate_functions_from_our_packages()
        give_iam_the_sender_of_an_email()
        give_iam_one_action_for_batches_of_messages()
        record_payloads_of_events(Path(os.environ["INVOCATIONS_FILE"]))
        unpack_each_function_once(Path(os.environ["FUNCTIONS_DIR"]))
        send_failed_events_as_lambda_does()
        start_executions_at_once()
        limit_each_map_as_its_input_says()
        answer_without_waiting_for_logs()
        threading.Thread(target=stop_with_our_parent, daemon=True).start()
        app.main()


def name_errors_as_lambda_does() -> None:
    """On AWS an exception's class name is the error's name, on which the workflow's Retry and Catch depend."""
    script = lambda_runtime._PYTHON_WORKER_SCRIPT
    assert script.count(ERROR_REPLY) == 1, "ministack's Lambda worker has changed"
    lambda_runtime._PYTHON_WORKER_SCRIPT = script.replace(ERROR_REPLY, NAMED_ERROR_REPLY)
    execute = lambda_svc._execute_function_warm

    def execute_and_name(*args: Any) -> dict[str, Any]:
        result: dict[str, Any] = execute(*args)
        match result.get("body"):
            case {"$raised": raised}:
                return result | {"body": raised, "error": True}
        return result

    lambda_svc._execute_function_warm = execute_and_name


def isolate_functions_from_our_packages() -> None:
    """On AWS a function can import what its zip contains, not what is installed beside the emulator."""
    del os.environ["PYTHONPATH"]
    interpreter = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    assert interpreter.exists(), f"No interpreter at {interpreter}"
    detect = lambda_runtime._detect_runtime_binary

    def detect_base(runtime: str) -> tuple[str, str]:
        binary, script = detect(runtime)
        return (str(interpreter) if binary == sys.executable else binary), script

    lambda_runtime._detect_runtime_binary = detect_base


def unpack_each_function_once(directory: Path) -> None:
    """Share the unpacked code between all processes and starts; ministack unpacks it for each process."""
    directory.mkdir(exist_ok=True)
    lock = threading.Lock()

    def unpack(code_zip: bytes) -> Path:
        with lock, zipfile.ZipFile(io.BytesIO(code_zip)) as archive:
            contents = repr([(entry.filename, entry.CRC) for entry in archive.infolist()])
            unpacked = directory / hashlib.sha256(contents.encode()).hexdigest()[:16]
            if not unpacked.exists():
                unpacking = Path(tempfile.mkdtemp(dir=directory))
                archive.extractall(unpacking)
                # Another emulator may have been faster.
                with suppress(OSError):
                    unpacking.rename(unpacked)
        return unpacked

    class Worker(lambda_runtime.Worker):  # type: ignore[misc]
        """Writes the name of the unpacked folder where ministack writes the zip."""

        def __init__(self, name: str, config: dict[str, Any], code_zip: bytes) -> None:
            super().__init__(name, config, os.fsencode(unpack(code_zip)))

    class UnpackedZip:
        """Stands in for the `ZipFile` that a worker opens, and links the folder."""

        def __init__(self, file: str) -> None:
            self._unpacked = Path(file).read_text()

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *exception: object) -> None:
            pass

        def extractall(self, path: str) -> None:
            Path(path).rmdir()
            Path(path).symlink_to(self._unpacked)

    lambda_runtime.Worker = Worker
    lambda_runtime.zipfile = SimpleNamespace(ZipFile=UnpackedZip, BadZipFile=zipfile.BadZipFile)


def start_executions_at_once() -> None:
    """ministack waits 150 ms before the first state of an execution."""
    code = stepfunctions._run_execution.__code__
    assert code.co_consts.count(0.15) == 1, "ministack's Step Functions has changed"
    constants = tuple(0 if constant == 0.15 else constant for constant in code.co_consts)
    stepfunctions._run_execution.__code__ = code.replace(co_consts=constants)


def limit_each_map_as_its_input_says() -> None:
    """On AWS the input of a Distributed Map can say how many of its items run at once."""
    run = stepfunctions._run_distributed_map

    def run_limited(state: dict[str, Any], raw: Any, effective: Any, *rest: Any) -> Any:
        *_, context = rest
        limit = stepfunctions._resolve_path_or_ctx(state["MaxConcurrencyPath"], effective, context)
        return run(state | {"MaxConcurrency": limit}, raw, effective, *rest)

    stepfunctions._run_distributed_map = run_limited


def answer_without_waiting_for_logs() -> None:
    """Wait 2 ms for an invocation's first log line, not 50; a later line then appears in the next invocation's log."""
    drain = lambda_runtime.Worker._drain_stderr_bounded
    lambda_runtime.Worker._drain_stderr_bounded = partialmethod(drain, first_line_wait=0.002)


def give_iam_the_sender_of_an_email() -> None:
    """On AWS ses:SendEmail is allowed per sending identity, and `ses:FromAddress` can be a condition."""
    resource_arn, request_context = iam_actions.extract_resource_arn, iam_actions.request_tag_context

    def sender(parameters: dict[str, Any]) -> str:
        source = parameters.get("Source", "")
        return str(source[0] if isinstance(source, list) else source)

    def resource_arn_of_email(service: str, *request: Any) -> str:
        *_, parameters, region, account = request
        if service == "ses" and sender(parameters):
            return f"arn:aws:ses:{region}:{account}:identity/{sender(parameters)}"
        return str(resource_arn(service, *request))

    def request_context_of_email(service: str, action: str, body: bytes, parameters: dict[str, Any]) -> dict[str, Any]:
        context: dict[str, Any] = request_context(service, action, body, parameters)
        return context | ({"ses:FromAddress": sender(parameters)} if service == "ses" else {})

    iam_actions.extract_resource_arn = resource_arn_of_email
    iam_actions.request_tag_context = request_context_of_email


def give_iam_one_action_for_batches_of_messages() -> None:
    """On AWS a batch of messages needs the permission for a single one."""
    extract = iam_actions.extract_iam_action

    def extract_single(service: str, *request: Any, **options: Any) -> str | None:
        action: str | None = extract(service, *request, **options)
        return action.removesuffix("Batch") if service == "sqs" and action else action

    iam_actions.extract_iam_action = extract_single


def record_payloads_of_events(file: Path) -> None:
    """Record the payload of each asynchronous call before it is answered.

    A function sees its event parsed; only here can one see that the payload was the callback's bytes.
    """
    handle = lambda_svc.handle_request
    lock = threading.Lock()

    async def handle_and_record(method: str, path: str, headers: dict[str, str], body: bytes, query: Any) -> Any:
        response = await handle(method, path, headers, body, query)
        if path.endswith("/invocations") and response[0] == HTTPStatus.ACCEPTED:
            call = {"function": path.split("/")[-2], "payload": body.decode()}
            with lock, file.open("a") as calls:
                calls.write(json.dumps(call) + "\n")
        return response

    lambda_svc.handle_request = handle_and_record


def send_failed_events_as_lambda_does() -> None:
    """On AWS the function's role sends a failed event to its destination, with the id of the request that was accepted.

    ministack sends it without an id, and whatever the role allows.
    """
    request_id: ContextVar[str] = ContextVar("request_id")

    def remembered_uuid() -> uuid.UUID:
        new = uuid.uuid4()
        request_id.set(str(new))
        return new

    def send(queue_arn: str, function: str, event: Any, result: dict[str, Any]) -> None:
        config = lambda_svc._functions[function]["config"]
        invocation = {
            "version": "1.0",
            "timestamp": datetime.now(UTC).isoformat(),
            "requestContext": {
                "requestId": request_id.get(),
                "functionArn": f"{config['FunctionArn']}:$LATEST",
                "condition": "RetriesExhausted",
                "approximateInvokeCount": 3,
            },
            "requestPayload": event,
            "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
            "responsePayload": result["body"],
        }
        *_, region, account, queue = queue_arn.split(":")
        endpoint = f"http://127.0.0.1:{os.environ['GATEWAY_PORT']}"
        credentials = {name.lower(): value for name, value in lambda_runtime.execution_credentials(config).items()}
        sqs = boto3.client("sqs", region_name=region, endpoint_url=endpoint, **credentials)
        sqs.send_message(QueueUrl=f"{endpoint}/{account}/{queue}", MessageBody=json.dumps(invocation))

    app.uuid = SimpleNamespace(uuid4=remembered_uuid)
    lambda_svc._route_async_failure = send


def stop_with_our_parent() -> None:
    """Stop when the parent, which holds the other end of stdin, ends in any way."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
