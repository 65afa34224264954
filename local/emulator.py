"""Runs ministack so that what we use of it behaves as on AWS. Start it as `python -m local.emulator`.

Each difference is bridged by a function of its own. They reach into ministack, hence the pinned version.
"""

import json
import os
import signal
import sys
import tempfile
import threading
import zipfile
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ministack import app
from ministack.core import iam_actions, lambda_runtime
from ministack.services import lambda_svc

ERROR_REPLY = 'json.dumps({"status": "error", "error": str(e), "trace": traceback.format_exc()})'
# ministack stops a process that replies with an error; on AWS an exception leaves it as it is.
NAMED_ERROR_REPLY = (
    'json.dumps({"status": "ok", "result": {"$raised": {"errorType": type(e).__name__, "errorMessage": str(e)}}})'
)


def main() -> None:
    """Serve until SIGTERM, or until the parent process is gone."""
    with tempfile.TemporaryDirectory(prefix="payment3-emulator-", ignore_cleanup_errors=True) as directory:
        tempfile.tempdir = os.environ["TMPDIR"] = directory
        name_errors_as_lambda_does()
        run_functions_without_our_packages()
        tell_iam_who_sends_a_mail()
        keep_the_payloads_of_events(Path(os.environ["INVOCATIONS_FILE"]))
        unpack_each_function_once(Path(directory, "functions"))
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


def run_functions_without_our_packages() -> None:
    """On AWS a function has what its zip brings, not what happens to be installed beside the emulator."""
    interpreter = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    assert interpreter.exists(), f"No interpreter at {interpreter}"
    detect = lambda_runtime._detect_runtime_binary

    def detect_base(runtime: str) -> tuple[str, str]:
        binary, script = detect(runtime)
        return (str(interpreter) if binary == sys.executable else binary), script

    lambda_runtime._detect_runtime_binary = detect_base


def unpack_each_function_once(directory: Path) -> None:
    """ministack unpacks a function's 40 MB again for each process; a cold start here is then slower than on AWS."""
    directory.mkdir()
    lock = threading.Lock()

    class SharedZipFile(zipfile.ZipFile):
        def extractall(self, path: Any = None, *args: Any, **kwargs: Any) -> None:
            key = f"{hash(tuple((entry.filename, entry.CRC) for entry in self.infolist())):x}"
            with lock:
                if not (directory / key).exists():
                    super().extractall(directory / "unpacking")
                    (directory / "unpacking").rename(directory / key)
            Path(path).rmdir()
            Path(path).symlink_to(directory / key)

    lambda_runtime.zipfile = SimpleNamespace(ZipFile=SharedZipFile, BadZipFile=zipfile.BadZipFile)


def tell_iam_who_sends_a_mail() -> None:
    """On AWS ses:SendEmail is allowed per sending identity, and `ses:FromAddress` can be a condition."""
    resource_arn, request_context = iam_actions.extract_resource_arn, iam_actions.request_tag_context

    def sender(parameters: dict[str, Any]) -> str:
        source = parameters.get("Source", "")
        return str(source[0] if isinstance(source, list) else source)

    def resource_arn_of_mail(service: str, *request: Any) -> str:
        *_, parameters, region, account = request
        if service == "ses" and sender(parameters):
            return f"arn:aws:ses:{region}:{account}:identity/{sender(parameters)}"
        return str(resource_arn(service, *request))

    def request_context_of_mail(service: str, action: str, body: bytes, parameters: dict[str, Any]) -> dict[str, Any]:
        context: dict[str, Any] = request_context(service, action, body, parameters)
        return context | ({"ses:FromAddress": sender(parameters)} if service == "ses" else {})

    iam_actions.extract_resource_arn = resource_arn_of_mail
    iam_actions.request_tag_context = request_context_of_mail


def keep_the_payloads_of_events(file: Path) -> None:
    """A function sees its event parsed; whether the payload was the callback's bytes can be seen only here."""
    handle = lambda_svc.handle_request
    lock = threading.Lock()

    async def handle_and_keep(method: str, path: str, headers: dict[str, str], body: bytes, query: Any) -> Any:
        response = await handle(method, path, headers, body, query)
        if path.endswith("/invocations") and response[0] == HTTPStatus.ACCEPTED:
            call = {"function": path.split("/")[-2], "payload": body.decode()}
            with lock, file.open("a") as calls:
                calls.write(json.dumps(call) + "\n")
        return response

    lambda_svc.handle_request = handle_and_keep


def stop_with_our_parent() -> None:
    """The parent holds the other end of stdin: when it is gone, however it went, so is the emulator."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
