"""Starts the emulator and deploys the real template to it, next to a stand-in for what the account already has."""

import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import boto3
from botocore.config import Config

import package

ROOT = package.ROOT
BUILDS = ROOT / ".aws-sam/local"
# What the build is made of.
SOURCES = ("template.yaml", "functions", "statemachine", "package.py")
REGION = "ap-southeast-1"
ACCOUNT_ID = "000000000000"
BRANCH = "local"
STACK_NAME = "payment3-callback-local"
ACCOUNT_STACK_NAME = "payment3-account-local"
ARTIFACTS_BUCKET = "payment3-artifacts-local"
EMAIL_FROM = "payments@example.com"
EMAIL_TO = "on-duty@example.com"

# Executions at once. Each runs its functions in processes of its own, whose cold starts share few cores.
CONCURRENCY = min(4, os.cpu_count() or 1)

START_SECONDS = 60
STOP_SECONDS = 10


class LocalStackError(RuntimeError):
    """The local stack cannot start; the message says why."""


@dataclass
class Stack:
    """The emulator with the stack deployed to it, for the duration of a `with` block.

    `state_dir` keeps the emulator's state for the next start. With `enforce_iam` the emulator refuses what a function's
    role does not allow. `wait_scale` scales the pauses between retries (0.1 turns one second into 100 ms).
    `parameters` override the template's defaults. `report` receives each step of the start as a line of text.
    """

    aws_port: int = 4566
    sentry_dsn: str = ""
    state_dir: Path | None = None
    enforce_iam: bool = False
    wait_scale: float = 1
    parameters: Mapping[str, str] = field(default_factory=dict)
    report: Callable[[str], None] = print
    _exits: ExitStack = field(default_factory=ExitStack, init=False)

    def __enter__(self) -> Self:
        require_free_port(self.aws_port, "AWS_PORT")
        with ExitStack() as exits:
            self.work_dir = Path(exits.enter_context(TemporaryDirectory(prefix="payment3-local-")))
            built = exits.enter_context(self._build())
            self.report("Starting the emulator of AWS")
            exits.callback(_stop, self._start_emulator(built / "unpacked"))
            self._wait_for_emulator()
            self._deploy_account()
            self.report("Deploying template.yaml")
            self._deploy_template(built)
            self.report("Starting the functions")
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
        """The user's environment without their configuration of AWS, SAM, Sentry and Python."""
        foreign = ("AWS_", "SAM_", "SENTRY_", "PYTHON")
        return {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "AWS_ACCESS_KEY_ID": ACCOUNT_ID,
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def _start_emulator(self, functions_dir: Path) -> subprocess.Popen[bytes]:
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
            "LAMBDA_ASYNC_RETRY_BASE_SECONDS": str(self.wait_scale),
            "PERSIST_STATE": "1" if self.state_dir else "0",
            "S3_PERSIST": "1" if self.state_dir else "0",
            "STATE_DIR": str(state_dir),
            "INVOCATIONS_FILE": str(self.invocations),
            "FUNCTIONS_DIR": str(functions_dir),
            # Roles are known at once here, so CheckReadiness need not wait for them.
            "READINESS_PAUSE_SECONDS": "0.1",
            "S3_DATA_DIR": str(state_dir / "s3"),
        }
        self.emulator_log = self.work_dir / "emulator.log"
        with self.emulator_log.open("wb") as log:
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
                raise LocalStackError(f"The emulator did not start:\n{self.emulator_log.read_text()[-2000:]}")
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

    @contextmanager
    def _build(self) -> Iterator[Path]:
        """Yield the folder of what `make build` makes of the current sources; build once, and keep it while in use."""
        built = BUILDS / _digest_of(*(ROOT / name for name in SOURCES))
        BUILDS.mkdir(parents=True, exist_ok=True)
        with ExitStack() as lock:
            lock.enter_context(_locked(BUILDS / "lock", fcntl.LOCK_EX))
            if not built.exists():
                self.report("Building the functions")
                _remove_unused_builds()
                building = BUILDS / "building"
                try:
                    package.build(building, self._sam)
                except package.BuildError as error:
                    raise LocalStackError(str(error)) from error
                building.rename(built)
            with _locked(built / "in-use", fcntl.LOCK_SH):
                lock.close()
                yield built

    def _deploy_template(self, built: Path) -> None:
        parameters = {
            "Branch": BRANCH,
            "EmailFrom": EMAIL_FROM,
            "EmailTo": EMAIL_TO,
            "SentryDsn": self.sentry_dsn,
            "LogRetentionDays": "1",
            "HealingConcurrency": str(CONCURRENCY),
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
            "SAM_CLI_POLL_DELAY": "0.2",
        }
        # An empty configuration keeps out samconfig.toml, which is for AWS.
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
        """Start a process of each callback function, so that the first callback waits for none.

        No handler reaches an AWS call: each fails to read the empty event.
        """
        machine = self.client("stepfunctions").describe_state_machine(stateMachineArn=self.outputs["StateMachineArn"])
        functions = sorted(set(re.findall(r"arn:aws:lambda:[^\"]+", machine["definition"])))
        lambda_client = self.client("lambda")
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            for function in functions:
                pool.submit(lambda_client.invoke, FunctionName=function, Payload=b"{}")


def require_free_port(port: int, variable: str) -> None:
    """Raise LocalStackError if something already listens on the port."""
    if _is_listening(port):
        raise LocalStackError(
            f"Port {port} is in use: stop what listens there, or choose another port with {variable}=…"
        )


def free_ports(count: int) -> Sequence[int]:
    """Return ports of 127.0.0.1 on which nothing listens."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


@contextmanager
def _locked(file: Path, operation: int) -> Iterator[None]:
    """Hold a lock on a file, which other processes see and which ends with the process."""
    with file.open("w") as opened:
        fcntl.flock(opened, operation)
        yield


def _remove_unused_builds() -> None:
    """Remove the builds from which no stack runs."""
    for folder in BUILDS.glob("*/"):
        with suppress(FileNotFoundError, BlockingIOError), _locked(folder / "in-use", fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(folder, ignore_errors=True)


def _digest_of(*paths: Path) -> str:
    """Return a digest of the files and of everything the folders contain, except Python's caches."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix != ".pyc":
                digest.update(f"{file.relative_to(ROOT)}\0{file.stat().st_size}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _quoted(value: str) -> str:
    """Return a parameter's value so that SAM reads it whole, even if it is empty or contains blanks."""
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
