"""The deployment package: no function uses what it leaves out, and its bytecode is that of its source."""

import importlib.util
import json
import marshal
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

import package
from package import ROOT
from tests.sources import FUNCTIONS, TEMPLATE
from tests.template.test_names import ACCOUNT, ANY_ENVIRONMENT, FILES, slowness

MAX_BYTES = 15_000_000
# Of CPU: what the import of a task takes at most on an idle core.
IMPORT_SECONDS = 0.28
# Makes each call in a region of each partition without sending it, and prints the request and how answers are read.
CALLS = """
import json, sys
sys.path[:0] = sys.argv[1:2]
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.session import get_session
from urllib3 import HTTPHeaderDict

CALLS = json.loads(sys.argv[2])
# The host is in the URL; awscrt, which is installed here, adds it to the headers as well.
VARYING = {"host", "Authorization", "X-Amz-Date", "amz-sdk-invocation-id", "User-Agent"}

class Body:
    def __init__(self, content): self.content = content
    def stream(self, **_): yield self.content
    def read(self, *_): return self.content

def answer(request, **_):
    text = lambda value: value.decode() if isinstance(value, bytes) else value
    headers = {name: text(value) for name, value in request.headers.items() if name not in VARYING}
    print(request.method, request.url, sorted(headers.items()), text(request.body))
    return AWSResponse(request.url, status, HTTPHeaderDict({"x-amzn-errortype": code}), Body(content))

regions = {"ap-southeast-1": "standard", "cn-north-1": "standard", "us-gov-west-1": "legacy"}
for region, mode in regions.items():
    session = get_session()
    for service, calls in CALLS.items():
        config = Config(retries={"total_max_attempts": 1, "mode": mode})
        client = session.create_client(service, region_name=region, config=config)
        client.meta.events.register("before-send", answer)
        for operation, (parameters, good, code, bad) in calls.items():
            for status, content in ((200, good.encode()), (400, bad.encode())):
                try:
                    print(client._make_api_call(operation, parameters).keys())
                except client.exceptions.ClientError as error:
                    print(type(error).__name__, error.response["Error"])
"""
KEY = {"TableName": "t", "Key": {"k": {"S": "1"}}}
CONDITION_FAILED = ("ConditionalCheckFailedException", json.dumps({"__type": "ConditionalCheckFailedException"}))
THROTTLED = ("ThrottlingException", json.dumps({"__type": "ThrottlingException", "message": "slow down"}))
SES_ANSWER = "<SendEmailResponse><SendEmailResult><MessageId>m</MessageId></SendEmailResult></SendEmailResponse>"
SES_ERROR = "<ErrorResponse><Error><Code>MessageRejected</Code><Message>no</Message></Error></ErrorResponse>"
MAIL = {"Subject": {"Data": "s"}, "Body": {"Text": {"Data": "t", "Charset": "UTF-8"}}}
MADE: dict[str, dict[str, tuple[dict[str, Any], str, str, str]]] = {
    "dynamodb": {
        "BatchGetItem": ({"RequestItems": {"t": {"Keys": [{"k": {"S": "1"}}]}}}, '{"Responses": {}}', *THROTTLED),
        "DeleteItem": (KEY, "{}", *CONDITION_FAILED),
        "GetItem": (KEY, '{"Item": {"k": {"N": "1"}}}', *THROTTLED),
        "PutItem": ({"TableName": "t", "Item": {"k": {"S": "1"}}}, "{}", *CONDITION_FAILED),
        "Query": ({"TableName": "t", "KeyConditionExpression": "k = :k"}, '{"Items": [], "Count": 0}', *THROTTLED),
        "Scan": ({"TableName": "t", "Limit": 1}, '{"Items": [], "Count": 0}', *THROTTLED),
        "UpdateItem": ({**KEY, "UpdateExpression": "SET a = b"}, '{"Attributes": {}}', *CONDITION_FAILED),
    },
    "lambda": {
        "Invoke": (
            {"FunctionName": "f", "InvocationType": "Event", "Payload": "{}"},
            "",
            "TooManyRequestsException",
            '{"Message": "slow down", "Reason": "CallerRateLimitExceeded"}',
        )
    },
    "secretsmanager": {"GetSecretValue": ({"SecretId": "s"}, '{"SecretString": "{}"}', *THROTTLED)},
    "ses": {
        "SendEmail": (
            {"Source": "a@b", "Destination": {"ToAddresses": ["c@d"]}, "Message": MAIL},
            SES_ANSWER,
            "",
            SES_ERROR,
        )
    },
    "sqs": {
        "DeleteMessageBatch": (
            {"QueueUrl": "https://q.example/1/q", "Entries": [{"Id": "1", "ReceiptHandle": "h"}]},
            '{"Successful": [], "Failed": []}',
            *THROTTLED,
        ),
        "ReceiveMessage": (
            {"QueueUrl": "https://q.example/1/q", "MaxNumberOfMessages": 10},
            '{"Messages": [{"MessageId": "m", "ReceiptHandle": "h", "Body": "{}"}]}',
            *THROTTLED,
        ),
    },
}
# Imports a task from the package alone, and prints its seconds of CPU and the files that do not belong to Python.
COLD_START = """
import importlib, sys, time
sys.path.insert(0, sys.argv[1])
importlib.import_module(sys.argv[2])
print(time.process_time())
files = (getattr(module, "__file__", None) for module in sys.modules.values())
print(*(file for file in files if file and not file.startswith((sys.base_prefix, sys.base_exec_prefix))))
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, made of the same files as SAM's, from the libraries that are installed here."""
    folder = tmp_path_factory.mktemp("package") / "functions"
    shutil.copytree(ROOT / "functions", folder, ignore=shutil.ignore_patterns("__pycache__"))
    pins = re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "functions/requirements.txt").read_text(), re.MULTILINE)
    for name, version in pins:
        library = distribution(name)
        assert library.version == version
        for file in library.files or []:
            if file.suffix != ".pyc" and ".." not in file.parts:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), folder / file)
    package.remove_unused(folder)
    package.add_bytecode(folder)
    return folder


def run(script: str, *arguments: str, **environment: str) -> str:
    """Run a script in Python without the libraries of this environment, unless an argument names them."""
    command = [sys.executable, "-I", "-S", "-c", script, *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_all_functions_share_one_small_package(folder: Path) -> None:
    assert not any("CodeUri" in function for function in FUNCTIONS.values())
    assert TEMPLATE["Globals"]["Function"]["CodeUri"] == "functions"
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= MAX_BYTES


def test_each_module_has_the_bytecode_of_its_source(folder: Path) -> None:
    sources = list(folder.rglob("*.py"))
    assert {f"{module}.py" for module in FILES.values()} <= {source.name for source in sources}
    for source in sources:
        bytecode = Path(importlib.util.cache_from_source(str(source))).read_bytes()
        assert bytecode[:4] == importlib.util.MAGIC_NUMBER
        # Not checked against the source at run time, but made from it.
        assert int.from_bytes(bytecode[4:8], "little") == 1
        assert bytecode[8:16] == importlib.util.source_hash(source.read_bytes())
        assert marshal.loads(bytecode[16:]).co_filename == f"/var/task/{source.relative_to(folder)}"  # noqa: S302


def test_another_python_than_the_runtime_builds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "PYTHON", "python3.13")
    called: list[object] = []
    with pytest.raises(package.BuildError, match=r"^The functions run on python3\.12"):
        package.build(tmp_path, lambda *arguments: called.append(arguments))
    assert called == []


def test_each_call_is_made_and_read_as_by_the_whole_botocore(folder: Path) -> None:
    assert {service: tuple(calls) for service, calls in MADE.items()} == package.OPERATIONS
    whole = str(distribution("botocore").locate_file(""))
    account = {**ACCOUNT, "AWS_EC2_METADATA_DISABLED": "true"}
    trimmed_calls, whole_calls = (run(CALLS, path, json.dumps(MADE), **account) for path in (str(folder), whole))
    assert trimmed_calls == whole_calls
    assert "dynamodb.cn-north-1.amazonaws.com.cn" in trimmed_calls
    assert "ConditionalCheckFailedException {" in trimmed_calls


@pytest.mark.parametrize("name", FILES)
def test_a_function_starts_from_the_package_alone_and_fast(folder: Path, name: str) -> None:
    environment = {**ANY_ENVIRONMENT, **ACCOUNT, "SENTRY_DSN": "http://key@127.0.0.1:1/1"}
    # Other processes may slow an import down, and the yardstick with it.
    for _ in range(4):
        seconds, files = run(COLD_START, str(folder), FILES[name], **environment).splitlines()
        assert all(file.startswith(f"{folder}{os.sep}") for file in files.split())
        if float(seconds) <= IMPORT_SECONDS * max(1, slowness()):
            return
    pytest.fail(f"The import takes {seconds} seconds of CPU")
