"""Starts the emulator and deploys the real template to it, beside a stand-in for what the account already has."""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import boto3
from botocore.config import Config

ROOT = Path(__file__).parent.parent
REGION = "ap-southeast-1"
ACCOUNT_ID = "000000000000"
BRANCH = "local"
STACK_NAME = "payment3-callback-local"
ACCOUNT_STACK_NAME = "payment3-account-local"
ARTIFACTS_BUCKET = "payment3-artifacts-local"
EMAIL_FROM = "payments@example.com"
EMAIL_TO = "on-duty@example.com"

# Executions at once. Each has its functions in processes of their own, whose cold starts share few cores.
CONCURRENCY = min(4, os.cpu_count() or 1)

START_SECONDS = 60
STOP_SECONDS = 10


class LocalStackError(RuntimeError):
    """The local stack cannot be started; the message says why."""


@dataclass
class Stack:
    """The emulator with the stack deployed to it, for the time of a `with` block.

    `state_dir` keeps the emulator's state for the next start. `enforce_iam` makes the emulator refuse what a function's
    role does not allow. `wait_scale` shortens the pauses between retries (0.1 makes one second 100 ms).
    `parameters` are the template's, where others than its defaults are wanted.
    """

    aws_port: int = 4566
    sentry_dsn: str = ""
    state_dir: Path | None = None
    enforce_iam: bool = False
    wait_scale: float = 1
    parameters: Mapping[str, str] = field(default_factory=dict)
    say: Callable[[str], None] = print
    _exits: ExitStack = field(default_factory=ExitStack, init=False)

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            self.work_dir = Path(exits.enter_context(TemporaryDirectory(prefix="payment3-local-")))
            self.say("Starting the emulator of AWS")
            exits.callback(_stop, self._start_emulator())
            self._wait_for_emulator()
            self._deploy_account()
            built = self._build()
            self.say("Deploying template.yaml")
            self._deploy_template(built)
            self.say("Starting the functions")
            self._start_functions()
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._exits.close()

    def client(self, service: str) -> Any:
        """Return a boto3 client of the emulator, with the credentials of its account's root user."""
        connect: Any = boto3.client
        return connect(
            service,
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCOUNT_ID,
            aws_secret_access_key="local",
            # StartSyncExecution goes to another host name on AWS, which does not exist here.
            config=Config(inject_host_prefix=False, read_timeout=60, retries={"total_max_attempts": 1}),
        )

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.aws_port}"

    @cached_property
    def outputs(self) -> dict[str, str]:
        """The outputs of the deployed stack."""
        (stack,) = self.client("cloudformation").describe_stacks(StackName=STACK_NAME)["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    @property
    def _environment(self) -> dict[str, str]:
        """Nothing of the user's own AWS configuration gets in."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAM_", "SENTRY_"))}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "AWS_ACCESS_KEY_ID": ACCOUNT_ID,
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def _start_emulator(self) -> subprocess.Popen[bytes]:
        require_free_port(self.aws_port, "AWS_PORT")
        state_dir = self.state_dir or self.work_dir / "state"
        state_dir.mkdir(parents=True, exist_ok=True)
        self.invocations = state_dir / "invocations.jsonl"
        environment = self._environment | {
            "PYTHONPATH": str(ROOT),
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.aws_port),
            "MINISTACK_REGION": REGION,
            "MINISTACK_ACCOUNT_ID": ACCOUNT_ID,
            "IOT_MTLS_ENABLED": "0",
            "AUTH": "true" if self.enforce_iam else "false",
            "SFN_WAIT_SCALE": str(self.wait_scale),
            "PERSIST_STATE": "1" if self.state_dir else "0",
            "S3_PERSIST": "1" if self.state_dir else "0",
            "STATE_DIR": str(state_dir),
            "INVOCATIONS_FILE": str(self.invocations),
            "S3_DATA_DIR": str(state_dir / "s3"),
        }
        self.log = self.work_dir / "emulator.log"
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "local.emulator"],
                cwd=self.work_dir,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_for_emulator(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not _is_listening(self.aws_port):
            if time.monotonic() > deadline:
                raise LocalStackError(f"The emulator did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.1)

    def _deploy_account(self) -> None:
        cloudformation = self.client("cloudformation")
        if any(stack["StackName"] == ACCOUNT_STACK_NAME for stack in cloudformation.describe_stacks()["Stacks"]):
            return
        self.client("s3").create_bucket(
            Bucket=ARTIFACTS_BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        cloudformation.create_stack(
            StackName=ACCOUNT_STACK_NAME,
            TemplateBody=(ROOT / "local/account.yaml").read_text(),
            Parameters=[
                {"ParameterKey": "Branch", "ParameterValue": BRANCH},
                {"ParameterKey": "EmailFrom", "ParameterValue": EMAIL_FROM},
            ],
            Capabilities=["CAPABILITY_IAM"],
        )
        cloudformation.get_waiter("stack_create_complete").wait(
            StackName=ACCOUNT_STACK_NAME, WaiterConfig={"Delay": 1, "MaxAttempts": 30}
        )

    def _build(self) -> Path:
        """Return the folder of what `sam build` makes of the sources as they are; built once."""
        built = ROOT / ".aws-sam/local" / _digest_of(ROOT / "template.yaml", ROOT / "functions", ROOT / "statemachine")
        # sam build writes the template last.
        if not (built / "template.yaml").exists():
            self.say("Building the functions")
            shutil.rmtree(built.parent, ignore_errors=True)
            self._sam("build", "--build-dir", str(built))
        return built

    def _deploy_template(self, built: Path) -> None:
        parameters = {
            "Branch": BRANCH,
            "EmailFrom": EMAIL_FROM,
            "EmailTo": EMAIL_TO,
            "SentryDsn": self.sentry_dsn,
            "LogRetentionDays": "1",
            **self.parameters,
        }
        self._sam(
            "deploy",
            *("--template-file", str(built / "template.yaml")),
            *("--stack-name", STACK_NAME),
            *("--s3-bucket", ARTIFACTS_BUCKET),
            *("--capabilities", "CAPABILITY_IAM"),
            "--no-progressbar",
            "--no-fail-on-empty-changeset",
            *("--parameter-overrides", *(f"{name}={_quoted(value)}" for name, value in parameters.items())),
        )

    def _sam(self, command: str, *arguments: str) -> None:
        """Run SAM as for AWS, but against the emulator. Raises LocalStackError with what it printed."""
        environment = self._environment | {
            "AWS_ENDPOINT_URL": self.endpoint,
            "SAM_CLI_TELEMETRY": "0",
            "SAM_CLI_POLL_DELAY": "1",
        }
        # An empty configuration, because samconfig.toml is for AWS.
        config = self.work_dir / "samconfig.toml"
        config.write_text("version = 0.1\n")
        run = subprocess.run(
            ["sam", command, "--config-file", str(config), *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise LocalStackError(f"sam {command} failed:\n{run.stdout}{run.stderr}")

    def _start_functions(self) -> None:
        """Start as many processes of each of the callback's functions as run at once, so that none waits for imports.

        The empty event reaches no AWS call: each handler fails at reading it.
        """
        machine = self.client("stepfunctions").describe_state_machine(stateMachineArn=self.outputs["StateMachineArn"])
        functions = sorted(set(re.findall(r"arn:aws:lambda:[^\"]+", machine["definition"])))
        lambda_client = self.client("lambda")
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            for function in functions:
                for _ in range(CONCURRENCY):
                    pool.submit(lambda_client.invoke, FunctionName=function, Payload=b"{}")


def require_free_port(port: int, variable: str) -> None:
    """Raise LocalStackError where something listens on the port already."""
    if _is_listening(port):
        raise LocalStackError(
            f"Port {port} is in use: stop what listens there, or choose another one with {variable}=…"
        )


def free_ports(count: int) -> Sequence[int]:
    """Return ports of 127.0.0.1 that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _digest_of(*paths: Path) -> str:
    """Return a digest of the files and of all that the folders hold, but for Python's caches."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix != ".pyc":
                digest.update(f"{file.relative_to(ROOT)}\0{file.stat().st_size}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _quoted(value: str) -> str:
    """Return a parameter's value as SAM reads it whole: blanks and none at all included."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _stop(emulator: subprocess.Popen[bytes]) -> None:
    emulator.terminate()
    with suppress(subprocess.TimeoutExpired):
        emulator.wait(STOP_SECONDS)
    # Its functions run in processes of its group.
    with suppress(ProcessLookupError):
        os.killpg(emulator.pid, signal.SIGKILL)
    emulator.communicate()
