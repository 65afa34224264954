"""Plays API Gateway: routes a request, runs the API's own integration and answers as the API's definition says.

The definition comes from the deployed stack. The rest (matching, choosing a template, API Gateway's own errors) follows
the documentation of REST APIs.
"""

import base64
import json
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from threading import BoundedSemaphore, Lock
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, ReadTimeoutError
from werkzeug import Request, Response
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.serving import WSGIRequestHandler

from local import vtl
from local.intrinsics import parameter_value, resolved

MAX_BODY_BYTES = 10 * 1024 * 1024

# API Gateway's own responses, unless the API defines others.
DEFAULT_TEMPLATE = '{"message":$context.error.messageString}'
GATEWAY_RESPONSES = {
    "ACCESS_DENIED": (
        403,
        "User: anonymous is not authorized to perform: execute-api:Invoke on resource: "
        "arn:aws:execute-api:ap-southeast-1:********0000:local/local/{method}{path} with an explicit deny",
    ),
    "BAD_REQUEST_BODY": (400, "Invalid request body"),
    "INTEGRATION_FAILURE": (504, "Network error communicating with endpoint"),
    "INTEGRATION_TIMEOUT": (504, "Endpoint request timed out"),
    "MISSING_AUTHENTICATION_TOKEN": (403, "Missing Authentication Token"),
    "REQUEST_TOO_LARGE": (413, "Request Too Long"),
    "THROTTLED": (429, "Too Many Requests"),
    "UNSUPPORTED_MEDIA_TYPE": (415, "Unsupported Media Type"),
}

# The definition of an API cannot change these.
FIXED_RESPONSES = {"REQUEST_TOO_LARGE"}

# Where a server keeps the headers as they were sent, as pairs of name and value.
SENT_HEADERS = "local.sent_headers"


class RequestHandler(WSGIRequestHandler):
    """Keeps the headers as they were sent: WSGI joins repeated ones by commas, and forgets the case of their names."""

    def make_environ(self) -> dict[str, Any]:
        return super().make_environ() | {SENT_HEADERS: self.headers.items()}


class GatewayError(Exception):
    """API Gateway answers without the integration; the argument is the type of the gateway response."""


@dataclass
class Throttle:
    """A stage's limits as a token bucket: each request takes a token or is refused.

    `burst` is the bucket's size, `rate` the number of tokens added per second, `clock` returns seconds.
    """

    rate: float
    burst: int
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._tokens = float(self.burst)
        self._filled_at = self.clock()
        self._lock = Lock()

    def try_take(self) -> bool:
        """Take a token if there is one, and return whether there was."""
        with self._lock:
            now = self.clock()
            self._tokens = min(self.burst, self._tokens + (now - self._filled_at) * self.rate)
            self._filled_at = now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


@dataclass
class Gateway:
    """A WSGI application that serves one stage of a REST API.

    `definition` is the API's OpenAPI document with its references resolved, `stepfunctions` the client for its
    integrations, `throttle` the stage's limits, and `concurrency` how many integrations may run at once. `log` receives
    a line of the stage's access log for each request, unless `access_log_format` is empty.
    Raises ValueError for a definition that API Gateway cannot hold.
    """

    definition: dict[str, Any]
    stepfunctions: Any
    throttle: Throttle
    concurrency: int = 4
    access_log_format: str = ""
    log: Callable[[str], None] = print

    def __post_init__(self) -> None:
        self._places = BoundedSemaphore(self.concurrency)
        for path, operations in self.definition["paths"].items():
            for method, operation in operations.items():
                responses = operation["x-amazon-apigateway-integration"]["responses"]
                statuses = [response["statusCode"] for response in responses.values()]
                if len(set(statuses)) < len(statuses):
                    raise ValueError(f"{method} {path} has two integration responses for one status code")

    def __call__(self, environ: Any, start_response: Any) -> Any:
        return self.answer(Request(environ))(environ, start_response)

    def answer(self, request: Request) -> Response:
        """Return API Gateway's answer; never raises, whatever a caller sends."""
        request_id = request.headers.get("x-amzn-RequestId") or str(uuid.uuid4())
        extended_request_id = base64.urlsafe_b64encode(uuid.uuid4().bytes[:11]).decode()
        headers = _headers_of(request)
        context = {
            # A caller can choose this one; only API Gateway chooses the extended one.
            "requestId": request_id,
            "extendedRequestId": extended_request_id,
            "requestTimeEpoch": time.time_ns() // 1_000_000,
            "httpMethod": _method_of(request, headers),
            "identity": {"sourceIp": request.remote_addr},
            "responseOverride": {},
        }
        try:
            body, status = self._integrate(request, headers, context)
        except GatewayError as error:
            body, status = self._gateway_response(str(error), request, context)
        if self.access_log_format:
            self.log(access_line(self.access_log_format, context | {"status": status}))
        ids = {"x-amzn-RequestId": request_id, "x-amz-apigw-id": extended_request_id}
        return Response(body, status, content_type="application/json", headers=ids)

    def _integrate(self, request: Request, headers: dict[str, str], context: dict[str, Any]) -> tuple[str, int]:
        if not self._is_allowed(request.remote_addr or ""):
            raise GatewayError("ACCESS_DENIED")
        operation = self.definition["paths"].get(request.path, {}).get(context["httpMethod"].lower())
        if operation is None:
            raise GatewayError("MISSING_AUTHENTICATION_TOKEN")
        # API Gateway applies the policy first, so refused callers do not use up the throttle.
        if not self.throttle.try_take():
            raise GatewayError("THROTTLED")
        integration = operation["x-amazon-apigateway-integration"]
        # werkzeug silently cuts a body of unknown length at the limit, hence one more byte.
        request.max_content_length = MAX_BODY_BYTES + 1
        try:
            received = request.get_data()
        except RequestEntityTooLarge as error:
            raise GatewayError("REQUEST_TOO_LARGE") from error
        # The body is shorter than announced, or its chunks are malformed.
        except (ClientDisconnected, OSError) as error:
            raise GatewayError("BAD_REQUEST_BODY") from error
        if len(received) > MAX_BODY_BYTES:
            raise GatewayError("REQUEST_TOO_LARGE")
        template = integration["requestTemplates"].get(request.mimetype or "application/json")
        if template is None:
            raise GatewayError("UNSUPPORTED_MEDIA_TYPE")
        rendered = vtl.render(template, context, received.decode("utf-8", "replace"), headers)
        with self._places:
            status, response = self._call(integration, json.loads(rendered))
        context["integration"] = {"status": status}
        return self._select_response(integration, status, response, context)

    def _is_allowed(self, source_ip: str) -> bool:
        """Return whether the addresses in the API's resource policy include the caller's."""
        statements = self.definition.get("x-amazon-apigateway-policy", {}).get("Statement", [])
        conditions = [statement["Condition"] for statement in statements if "Condition" in statement]
        lists = [condition["NotIpAddress"]["aws:SourceIp"] for condition in conditions]
        return all(
            any(ip_address(source_ip) in ip_network(block, strict=False) for block in blocks) for blocks in lists
        )

    def _call(self, integration: dict[str, Any], parameters: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        action = integration["uri"].rpartition(":states:action/")[2]
        calls: dict[str, Callable[..., dict[str, Any]]] = {
            "StartSyncExecution": self.stepfunctions.start_sync_execution
        }
        try:
            response = calls[action](**parameters)
        except ClientError as error:
            details = error.response["Error"]
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            return status, {"__type": details["Code"], "message": details["Message"]}
        except (ConnectTimeoutError, ReadTimeoutError) as error:
            raise GatewayError("INTEGRATION_TIMEOUT") from error
        except BotoCoreError as error:
            raise GatewayError("INTEGRATION_FAILURE") from error
        return response.pop("ResponseMetadata")["HTTPStatusCode"], response

    def _select_response(
        self, integration: dict[str, Any], status: int, response: dict[str, Any], context: dict[str, Any]
    ) -> tuple[str, int]:
        responses = integration["responses"]
        selected = next(
            (chosen for pattern, chosen in responses.items() if re.fullmatch(pattern, str(status))),
            responses["default"],
        )
        template = selected["responseTemplates"]["application/json"]
        body = vtl.render(template, context, json.dumps(response, default=str)).strip()
        return body, int(context["responseOverride"].get("status", selected["statusCode"]))

    def _gateway_response(self, kind: str, request: Request, context: dict[str, Any]) -> tuple[str, int]:
        default_status, text = GATEWAY_RESPONSES[kind]
        message = text.format(method=context["httpMethod"], path=request.path)
        is_fixed = kind in FIXED_RESPONSES
        defined = {} if is_fixed else self.definition.get("x-amazon-apigateway-gateway-responses", {})
        fallback = defined.get(f"DEFAULT_{default_status // 100}XX", {})
        response = defined.get(kind, fallback)
        template = response.get("responseTemplates", {}).get("application/json", DEFAULT_TEMPLATE)
        context["error"] = {"message": message, "messageString": json.dumps(message), "responseType": kind}
        return vtl.render(template, context), int(response.get("statusCode", default_status))


def access_line(access_log_format: str, context: dict[str, Any]) -> str:
    """Return a line of the access log; a variable without a value is a hyphen."""

    def value(variable: re.Match[str]) -> str:
        found: Any = context
        for name in variable[1].split("."):
            found = found.get(name, {})
        return str(found) if found != {} else "-"

    return re.sub(r"\$context\.([\w.]+)", value, access_log_format)


def _headers_of(request: Request) -> dict[str, str]:
    """Return the headers as `$input.params()` has them: the last value of each name, in whatever case it was sent."""
    sent = request.environ.get(SENT_HEADERS) or request.headers.items()
    return {name: value.replace("\r\n", "") for name, value in sent}


def _method_of(request: Request, headers: dict[str, str]) -> str:
    """Return the method that counts: X-HTTP-Method-Override replaces POST."""
    if request.method != "POST":
        return request.method
    return next((value for name, value in headers.items() if name.lower() == "x-http-method-override"), "POST")


def read_deployed_api(cloudformation: Any, stack_name: str) -> tuple[dict[str, Any], Throttle, str]:
    """Return the OpenAPI document of the stack's REST API, and the limits and the access log's format of its one stage.

    The document's references are resolved; the format is empty if the stage has no access log.

    All come from the processed template: ministack drops the mapping templates of a document that it imports.
    Raises KeyError for a reference to something that was not deployed.
    """
    template = cloudformation.get_template(StackName=stack_name, TemplateStage="Processed")["TemplateBody"]
    (stack,) = cloudformation.describe_stacks(StackName=stack_name)["Stacks"]
    resources = cloudformation.describe_stack_resources(StackName=stack_name)["StackResources"]
    region, account = stack["StackId"].split(":")[3:5]
    given = {parameter["ParameterKey"]: parameter["ParameterValue"] for parameter in stack["Parameters"]}
    names = {
        "AWS::Partition": "aws",
        "AWS::Region": region,
        "AWS::AccountId": account,
        **{name: parameter_value(parameter, given.get(name)) for name, parameter in template["Parameters"].items()},
        # The integration's role, which nothing here assumes, and the log group, to which nothing here writes.
        "CallbackApiRole.Arn": None,
        "ApiLogs.Arn": None,
        **{deployed["LogicalResourceId"]: deployed["PhysicalResourceId"] for deployed in resources},
    }

    def read(kind: str, name: str) -> Any:
        """Return a property of the stack's only resource of a type."""
        (resource,) = (r for r in template["Resources"].values() if r["Type"] == kind)
        return resolved({name: resource["Properties"][name]}, names, template["Conditions"]).get(name)

    (limits,) = read("AWS::ApiGateway::Stage", "MethodSettings")
    assert (limits["ResourcePath"], limits["HttpMethod"]) == ("/*", "*"), "the limits are not those of all methods"
    throttle = Throttle(float(limits["ThrottlingRateLimit"]), int(limits["ThrottlingBurstLimit"]))
    access_log = read("AWS::ApiGateway::Stage", "AccessLogSetting") or {"Format": ""}
    return read("AWS::ApiGateway::RestApi", "Body"), throttle, access_log["Format"]
