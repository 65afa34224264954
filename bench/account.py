"""The AWS account that both designs call while they are measured: moto behind TLS, which counts the calls."""

import json
import re
import ssl
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

import boto3
import certifi
from botocore.awsrequest import AWSPreparedRequest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from moto import mock_aws
from moto.core.models import botocore_stubber

from bench.paths import CONSISTENT
from tests.sources import TABLES, table
from tests.workflow import engine
from tests.workflow.engine import REGION

SENTRY_EVENT = "Sentry event"
REFUSAL = {"__type": "com.amazon.coral.service#AccessDeniedException", "message": "The bench refuses it"}


@dataclass
class Account:
    """The account: `calls` counts what was called, by service and operation, and Sentry's events, until `take_calls`.

    With `refuses_records` the record table refuses each write, as if the permission were missing.
    """

    environment: dict[str, str]
    calls: Counter[str] = field(default_factory=Counter)
    refuses_records: bool = False

    def take_calls(self) -> Counter[str]:
        calls, self.calls = self.calls, Counter()
        return calls


def kind_of(path: str, headers: Message, body: bytes) -> str:
    """Return the service and operation of a request to AWS, such as `dynamodb PutItem`."""
    if path.endswith("/invocations"):
        return f"lambda Invoke ({headers.get('X-Amz-Invocation-Type', 'RequestResponse')})"
    if target := headers.get("X-Amz-Target"):
        service, _, operation = target.partition(".")
        suffix = CONSISTENT if json.loads(body).get("ConsistentRead") else ""
        return f"{service.partition('_')[0].removeprefix('Amazon').lower()} {operation}{suffix}"
    return f"ses {parse_qs(body.decode()).get('Action', ['?'])[0]}"


@contextmanager
def serving_account() -> Iterator[Account]:
    """Serve the account with the template's tables and queues for the duration of a `with` block."""
    with TemporaryDirectory(prefix="payment3-bench-") as folder, mock_aws(), ExitStack() as exits:
        certificate, key, bundle = _make_certificate(Path(folder))
        account = Account({})
        _create_resources()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        aws_port = exits.enter_context(_serving(_aws_handler(account), context))
        sentry_port = exits.enter_context(_serving(_sentry_handler(account)))
        account.environment = {
            "AWS_ENDPOINT_URL": f"https://127.0.0.1:{aws_port}",
            "AWS_CA_BUNDLE": str(bundle),
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": engine.ACCOUNT,
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_SESSION_TOKEN": "bench",
            "SENTRY_DSN": f"http://key@127.0.0.1:{sentry_port}/1",
        }
        yield account


class KeepAliveHandler(BaseHTTPRequestHandler):
    """Keeps connections open, as AWS and Sentry do."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        status, headers, body = self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in {"content-length", "date", "server", "connection"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        raise NotImplementedError

    def log_message(self, *_: object) -> None:
        pass


def _aws_handler(account: Account) -> type[KeepAliveHandler]:
    one_at_a_time = Lock()

    class Aws(KeepAliveHandler):
        def answer(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
            kind = kind_of(self.path, self.headers, body)
            account.calls[kind] += 1
            if "Invoke" in kind:
                return 202, {"x-amzn-requestid": str(uuid4())}, b""
            if account.refuses_records and _writes_record(kind, body):
                return 400, {"Content-Type": "application/x-amz-json-1.0"}, json.dumps(REFUSAL).encode()
            # A conditional write is atomic; moto lets other threads in between.
            with one_at_a_time:
                answer: Any = botocore_stubber.process_request(_as_sent_to_aws(self, body))
            status, headers, text = answer
            return status, headers, text.encode() if isinstance(text, str) else text

    return Aws


def _sentry_handler(account: Account) -> type[KeepAliveHandler]:
    class Sentry(KeepAliveHandler):
        def answer(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:  # noqa: ARG002
            account.calls[SENTRY_EVENT] += 1
            return 200, {"Content-Type": "application/json"}, b"{}"

    return Sentry


def _writes_record(kind: str, body: bytes) -> bool:
    return kind == "dynamodb PutItem" and json.loads(body)["TableName"] == engine.RECORD_TABLE


@contextmanager
def _serving(handler: type[KeepAliveHandler], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve on a free port of 127.0.0.1, and return the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def _as_sent_to_aws(request: BaseHTTPRequestHandler, body: bytes) -> AWSPreparedRequest:
    """Return a request with the service's host name, which its signature names."""
    scope = re.search(r"Credential=[^/]+/\d+/[^/]+/(\w+)/", request.headers["Authorization"])
    assert scope
    host = f"{ {'ses': 'email'}.get(scope[1], scope[1]) }.{REGION}.amazonaws.com"
    headers: Any = dict(request.headers) | {"Host": host}
    return AWSPreparedRequest("POST", f"https://{host}{request.path}", headers, body, False)


def _create_resources() -> None:
    dynamodb, sqs = _client("dynamodb"), _client("sqs")
    for name in TABLES:
        dynamodb.create_table(**table(name))
    for arguments in engine.queues():
        sqs.create_queue(**arguments)
    _client("ses").verify_email_identity(EmailAddress=engine.PARAMETERS["EmailFrom"])


def empty_tables() -> None:
    """Take away what the calls so far have written."""
    dynamodb = _client("dynamodb")
    for name in TABLES:
        dynamodb.delete_table(TableName=table(name)["TableName"])
        dynamodb.create_table(**table(name))


def _client(service: str) -> Any:
    connect: Any = boto3.client
    options = {"region_name": REGION, "aws_access_key_id": engine.ACCOUNT, "aws_secret_access_key": "bench"}
    return connect(service, **options)


def _make_certificate(folder: Path) -> tuple[Path, Path, Path]:
    """Write a certificate of 127.0.0.1, its key, and a bundle of it with certifi's certificates.

    On AWS botocore loads certifi's bundle in both designs, which takes more CPU than a single certificate.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    own = certificate.public_bytes(serialization.Encoding.PEM)
    files = folder / "certificate.pem", folder / "key.pem", folder / "bundle.pem"
    files[0].write_bytes(own)
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    files[2].write_bytes(own + Path(certifi.where()).read_bytes())
    return files
