"""API Gateway as local/gateway.py plays it, checked against AWS's documentation."""

import copy
import fnmatch
import http.client
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, ReadTimeoutError
from werkzeug.serving import make_server
from werkzeug.test import Client, TestResponse

from local.gateway import MAX_BODY_BYTES, Gateway, RequestHandler, Throttle, read_deployed_api
from tests.unit.kit import Json

PATH = "/bankapp/callback"
BODY = '{"orderId": "1", "amount": 1.50}'
FAILURE = "Failed to process bank app callback"
ANSWER = '{"success": true, "message": "ชำระ O\'Brien \\"1.50\\" $x #end"}'


def ended(status: str, **more: Any) -> Json:
    """Return boto3's answer for an execution with this status."""
    return {
        "executionArn": "arn:aws:states:ap-southeast-1:123456789012:express:payment3-bankapp-callback-test:1:1",
        "startDate": datetime(2026, 11, 22, tzinfo=UTC),
        "status": status,
        **more,
        "ResponseMetadata": {"HTTPStatusCode": 200, "RequestId": "r"},
    }


def succeeded(status: int = 200, body: str = ANSWER) -> Json:
    return ended("SUCCEEDED", output=json.dumps({"statusCode": status, "body": body}))


def refused(code: str, status: int) -> ClientError:
    metadata = {"HTTPStatusCode": status}
    response: Any = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": metadata}
    return ClientError(response, "StartSyncExecution")


@dataclass
class StepFunctions:
    """Stands in for boto3's client: records its calls, and returns or raises `outcome`."""

    outcome: Any = None
    calls: list[Json] = field(default_factory=list)

    def start_sync_execution(self, **parameters: Any) -> Json:
        self.calls.append(parameters)
        outcome = self.outcome() if callable(self.outcome) else self.outcome
        if isinstance(outcome, Exception):
            raise outcome
        answer: Json = outcome
        return answer

    def deliveries(self) -> list[Json]:
        return [json.loads(call["input"]) for call in self.calls]


@pytest.fixture
def stepfunctions() -> StepFunctions:
    return StepFunctions(outcome=succeeded)


def serve(
    definition: Json, stepfunctions: StepFunctions, concurrency: int = 4, throttle: Throttle | None = None
) -> Gateway:
    return Gateway(definition, stepfunctions, throttle or Throttle(rate=1, burst=1000), concurrency)


@pytest.fixture
def client(api: Json, stepfunctions: StepFunctions) -> Client:
    return Client(serve(api, stepfunctions))


def post(
    client: Client,
    data: str | bytes = BODY,
    content_type: str | None = "application/json",
    source_ip: str = "203.0.113.7",
) -> TestResponse:
    return client.post(PATH, data=data, content_type=content_type, environ_overrides={"REMOTE_ADDR": source_ip})


def refusal(response: TestResponse) -> str:
    """Return the error of a failed callback's answer, which must have the shape that all of them share."""
    assert response.content_type == "application/json"
    answer = json.loads(response.get_data(as_text=True))
    assert answer == {"success": False, "error": answer["error"], "message": FAILURE}
    error: str = answer["error"]
    return error.replace(response.headers["x-amz-apigw-id"], "<id>").replace(request_id(response), "<id>")


def request_id(response: TestResponse) -> str:
    """Return the id of a delivery: API Gateway's extended one, letters, digits, `_` and `-` only."""
    return re.sub("[^A-Za-z0-9_-]", "", response.headers["x-amz-apigw-id"])


def test_a_callback_starts_one_execution_named_by_its_request_id(client: Client, stepfunctions: StepFunctions) -> None:
    before = time.time() * 1000 - 1
    response = post(client)
    (call,) = stepfunctions.calls
    assert call.keys() == {"stateMachineArn", "name", "input"}
    assert call["stateMachineArn"].endswith(":payment3-bankapp-callback-test")
    assert call["name"] == request_id(response)
    (delivery,) = stepfunctions.deliveries()
    assert delivery["requestId"] == call["name"]
    assert before <= delivery["receivedAt"] <= time.time() * 1000
    assert (delivery["body"], delivery["sourceIp"]) == (BODY, "203.0.113.7")


def test_every_request_has_its_own_id(client: Client, stepfunctions: StepFunctions) -> None:
    assert request_id(post(client)) != request_id(post(client))
    assert len({call["name"] for call in stepfunctions.calls}) == 2


def test_no_caller_can_choose_the_id(client: Client, stepfunctions: StepFunctions) -> None:
    headers = {"Content-Type": "application/json", "x-amzn-RequestId": "chosen"}
    chosen = [client.post(PATH, data=BODY, headers=headers) for _ in range(2)]
    assert {response.headers["x-amzn-RequestId"] for response in chosen} == {"chosen"}
    assert "chosen" not in str(stepfunctions.calls)
    assert len({call["name"] for call in stepfunctions.calls}) == 2


def test_without_a_request_id_step_functions_names_the_execution(
    client: Client, stepfunctions: StepFunctions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("local.gateway.base64", SimpleNamespace(urlsafe_b64encode=lambda _: b"=="))
    post(client)
    (call,) = stepfunctions.calls
    assert call.keys() == {"stateMachineArn", "input"}
    assert stepfunctions.deliveries()[0]["requestId"] == ""


def test_only_headers_on_the_allow_list_are_passed_on(client: Client, stepfunctions: StepFunctions) -> None:
    headers = {
        "User-Agent": "BankGateway/2.1",
        "Webhook-Id": "msg_1",
        "WEBHOOK-TIMESTAMP": "1795341600",
        "webhook-signature": "v1,a/b+c=",
        "X-Signature": "9f86d081",
        "Authorization": "secret",
        "Cookie": "secret",
        "X-Forwarded-For": "secret",
    }
    client.post(PATH, data=BODY, content_type="application/json; charset=utf-8", headers=headers)
    assert stepfunctions.deliveries()[0]["headers"] == {
        "content-type": "application/json; charset=utf-8",
        "user-agent": "BankGateway/2.1",
        "webhook-id": "msg_1",
        "webhook-timestamp": "1795341600",
        "webhook-signature": "v1,a/b+c=",
        "x-signature": "9f86d081",
    }


Pairs = list[tuple[str, str]]


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ([("webhook-id", "first"), ("user-agent", "a"), ("webhook-id", "last")], {"webhook-id": "last"}),
        ([("Webhook-Id", "first"), ("webhook-id", "last")], {"webhook-id": "last"}),
        ([("webhook-id", "first"), ("Webhook-Id", "last"), ("Webhook-Id", "x" * 9_000)], {"webhook-id": "x" * 1_024}),
        ([("webhook-id", ""), ("x-signature", "\u00e9'\"\\")], {"webhook-id": "", "x-signature": "\u00e9'\"\\"}),
    ],
    ids=["twice", "in two cases", "long", "not ASCII"],
)
def test_each_header_has_one_value_however_it_is_sent(
    api: Json, stepfunctions: StepFunctions, sent: Pairs, received: dict[str, str]
) -> None:
    server = make_server("127.0.0.1", 0, serve(api, stepfunctions), request_handler=RequestHandler)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("POST", PATH, skip_accept_encoding=True)
    for name, value in sent:
        connection.putheader(name, value)
    connection.putheader("Content-Length", "2")
    connection.endheaders(b"{}")
    assert connection.getresponse().status == 200
    connection.close()
    thread.join()
    server.server_close()
    (delivery,) = stepfunctions.deliveries()
    assert {name: value for name, value in delivery["headers"].items() if name != "user-agent"} == received


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "x-http-method-override"])
def test_a_header_replaces_the_method_of_a_post_and_of_no_other(
    client: Client, stepfunctions: StepFunctions, name: str
) -> None:
    def status(method: str, override: str) -> int:
        headers = {"Content-Type": "application/json", name: override}
        return client.open(PATH, method=method, data=BODY, headers=headers).status_code

    assert [status("POST", "GET"), status("GET", "POST"), status("POST", "POST")] == [404, 404, 200]
    assert len(stepfunctions.calls) == 1


def test_two_integration_responses_for_one_status_are_no_definition(api: Json) -> None:
    definition = copy.deepcopy(api)
    responses = definition["paths"][PATH]["post"]["x-amazon-apigateway-integration"]["responses"]
    responses[r"5\d{2}"] = responses[r"[45]\d{2}"]
    with pytest.raises(ValueError, match=r"^post /bankapp/callback has two integration responses for one status code$"):
        serve(definition, StepFunctions())


@pytest.mark.parametrize("status", [200, 500])
def test_a_succeeded_execution_decides_its_answer(client: Client, stepfunctions: StepFunctions, status: int) -> None:
    stepfunctions.outcome = succeeded(status)
    response = post(client)
    assert response.status_code == status
    assert response.content_type == "application/json"
    assert response.get_data(as_text=True) == ANSWER


@pytest.mark.parametrize(
    ("outcome", "status", "error"),
    [
        (ended("FAILED", error="States.Runtime", cause="secret"), 500, "Internal error, request id <id>"),
        (ended("TIMED_OUT", error="States.Timeout", cause="secret"), 504, "Timed out, request id <id>"),
        (refused("ThrottlingException", 400), 429, "Too many requests, request id <id>"),
        (refused("StateMachineDoesNotExist", 400), 500, "Internal error, request id <id>"),
        (refused("AccessDeniedException", 400), 500, "Internal error, request id <id>"),
        (refused("InvalidExecutionInput", 400), 500, "Internal error, request id <id>"),
        (refused("InternalServerError", 500), 500, "Internal error, request id <id>"),
        (refused("ServiceUnavailable", 503), 500, "Internal error, request id <id>"),
        (ReadTimeoutError(endpoint_url="http://127.0.0.1"), 504, "Timed out, request id <id>"),
        (ConnectTimeoutError(endpoint_url="http://127.0.0.1"), 504, "Timed out, request id <id>"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_every_failure_is_answered_in_one_shape_without_its_cause(
    client: Client, stepfunctions: StepFunctions, outcome: Any, status: int, error: str
) -> None:
    stepfunctions.outcome = outcome
    response = post(client)
    assert response.status_code == status
    assert refusal(response) == error
    assert len(stepfunctions.calls) == 1


@pytest.mark.parametrize(
    ("outcome", "status", "body"),
    [
        (ended("SUCCEEDED"), 200, "default SUCCEEDED"),
        (refused("ThrottlingException", 400), 409, "refused ThrottlingException"),
        (refused("InternalServerError", 500), 502, "broken InternalServerError"),
    ],
)
def test_the_status_of_the_call_selects_the_response(api: Json, outcome: Any, status: int, body: str) -> None:
    definition = copy.deepcopy(api)
    definition["paths"][PATH]["post"]["x-amazon-apigateway-integration"]["responses"] = {
        "default": {"statusCode": "200", "responseTemplates": {"application/json": "default $input.path('$.status')"}},
        r"4\d{2}": {"statusCode": "409", "responseTemplates": {"application/json": "refused $input.path('$.__type')"}},
        r"5\d{2}": {"statusCode": "502", "responseTemplates": {"application/json": "broken $input.path('$.__type')"}},
    }
    response = post(Client(serve(definition, StepFunctions(outcome))))
    assert (response.status_code, response.get_data(as_text=True)) == (status, body)


ALL_KINDS = "198.51.100.0/24,203.0.113.7/32,2001:db8::/32"


@pytest.mark.parametrize(
    ("allowed", "source_ip"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7/32", "203.0.113.7"),
        ("203.0.113.0/24", "203.0.113.0"),
        ("203.0.113.0/24", "203.0.113.255"),
        ("0.0.0.0/0", "203.0.113.7"),
        ("2001:db8::7/128", "2001:db8::7"),
        ("2001:db8::/32", "2001:0DB8:ffff::1"),
        (ALL_KINDS, "198.51.100.9"),
        (ALL_KINDS, "203.0.113.7"),
        (ALL_KINDS, "2001:db8::7"),
    ],
)
def test_a_caller_on_the_allow_list_is_accepted(
    api_with: Callable[..., Json], stepfunctions: StepFunctions, allowed: str, source_ip: str
) -> None:
    client = Client(serve(api_with(AllowedSourceIps=allowed), stepfunctions))
    assert post(client, source_ip=source_ip).status_code == 200
    assert stepfunctions.deliveries()[0]["sourceIp"] == source_ip


@pytest.mark.parametrize(
    ("allowed", "source_ip"),
    [
        ("203.0.113.7", "203.0.113.8"),
        ("203.0.113.7/32", "203.0.113.6"),
        ("203.0.113.0/24", "203.0.112.255"),
        ("203.0.113.0/24", "203.0.114.0"),
        ("203.0.113.0/24", "2001:db8::7"),
        ("0.0.0.0/0", "2001:db8::7"),
        ("2001:db8::/32", "2001:db9::1"),
        ("2001:db8::/32", "203.0.113.7"),
        (ALL_KINDS, "198.51.101.0"),
        (ALL_KINDS, "203.0.113.8"),
        (ALL_KINDS, "2001:db7::1"),
    ],
)
def test_any_other_caller_is_refused_and_starts_nothing(
    api_with: Callable[..., Json], stepfunctions: StepFunctions, allowed: str, source_ip: str
) -> None:
    client = Client(serve(api_with(AllowedSourceIps=allowed), stepfunctions))
    response = post(client, source_ip=source_ip)
    assert response.status_code == 403
    assert re.fullmatch(
        r"User: anonymous is not authorized to perform: execute-api:Invoke on resource: arn:aws:execute-api:"
        r"ap-southeast-1:\*{8}0000:local/local/POST/bankapp/callback with an explicit deny",
        refusal(response),
    )
    assert stepfunctions.calls == []


@pytest.mark.parametrize("source_ip", ["203.0.113.7", "127.0.0.1", "2001:db8::7"])
def test_without_an_allow_list_every_caller_is_accepted(
    client: Client, api: Json, stepfunctions: StepFunctions, source_ip: str
) -> None:
    assert "x-amazon-apigateway-policy" not in api
    assert post(client, source_ip=source_ip).status_code == 200
    assert len(stepfunctions.calls) == 1


def test_a_caller_cannot_claim_an_address_on_the_allow_list(
    api_with: Callable[..., Json], stepfunctions: StepFunctions
) -> None:
    client = Client(serve(api_with(AllowedSourceIps="203.0.113.7/32"), stepfunctions))
    claimed = {"X-Forwarded-For": "203.0.113.7", "X-Real-Ip": "203.0.113.7", "Forwarded": "for=203.0.113.7"}
    stranger = {"REMOTE_ADDR": "192.0.2.1"}
    assert client.post(PATH, json={}, headers=claimed, environ_overrides=stranger).status_code == 403
    assert stepfunctions.calls == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", PATH),
        ("PUT", PATH),
        ("DELETE", PATH),
        ("OPTIONS", PATH),
        ("BREW", PATH),
        ("POST", "/"),
        ("POST", PATH + "/"),
        ("POST", PATH.upper()),
        ("POST", "/bankapp"),
        ("POST", "/ชำระ"),
        ("PARAMETERS", PATH),
    ],
)
def test_an_unknown_path_or_method_is_not_found(
    client: Client, stepfunctions: StepFunctions, method: str, path: str
) -> None:
    response = client.open(path, method=method, data=BODY, content_type="application/json")
    assert response.status_code == 404
    assert refusal(response) == "Not found"
    assert stepfunctions.calls == []


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "application/xml", "application/jsonp", "nonsense"],
)
def test_another_content_type_is_refused(client: Client, stepfunctions: StepFunctions, content_type: str) -> None:
    response = post(client, '{"stateMachineArn": "arn:other", "input": "{}"}', content_type)
    assert response.status_code == 415
    assert refusal(response) == "Unsupported Media Type"
    assert stepfunctions.calls == []


@pytest.mark.parametrize(
    "content_type", [None, "application/json", "Application/JSON", "application/json;charset=UTF-8"]
)
def test_json_is_accepted_by_any_of_its_names_and_without_one(
    client: Client, stepfunctions: StepFunctions, content_type: str | None
) -> None:
    assert post(client, content_type=content_type).status_code == 200
    assert stepfunctions.deliveries()[0]["body"] == BODY


def test_a_request_over_10_mb_is_too_large(client: Client, stepfunctions: StepFunctions) -> None:
    response = post(client, b"a" * (MAX_BODY_BYTES + 1))
    assert (response.status_code, response.json) == (413, {"message": "Request Too Long"})
    assert stepfunctions.calls == []


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ("ชำระ 🎉 O'Brien".encode(), "ชำระ 🎉 O'Brien"),
        (b'{"orderId": "\xff\xfe"}', '{"orderId": "\ufffd\ufffd"}'),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        # API Gateway replaces a missing body with an empty object.
        (b"", "{}"),
        (b"\x00", "\x00"),
    ],
)
def test_any_bytes_reach_the_workflow_as_text(
    client: Client, stepfunctions: StepFunctions, sent: bytes, received: str
) -> None:
    assert post(client, sent).status_code == 200
    assert stepfunctions.deliveries()[0]["body"] == received


@pytest.mark.parametrize(("length", "status"), [(100, 200), (MAX_BODY_BYTES, 200), (MAX_BODY_BYTES + 1, 413)])
def test_a_body_sent_in_chunks_is_read_up_to_the_limit(
    client: Client, stepfunctions: StepFunctions, length: int, status: int
) -> None:
    # A WSGI server passes Transfer-Encoding: chunked on like this.
    chunked = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True}
    response = client.post(PATH, data=b"a" * length, content_type="application/json", environ_overrides=chunked)
    assert response.status_code == status
    assert [len(delivery["body"]) for delivery in stepfunctions.deliveries()] == [min(length, 512)] * (status == 200)


def test_requests_beyond_the_concurrency_wait(api: Json) -> None:
    lock = threading.Lock()
    running = 0
    most = 0

    def work() -> Json:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return succeeded()

    gateway = serve(api, StepFunctions(outcome=work), concurrency=2)
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(post(Client(gateway)).status_code)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 5
    assert most == 2


def test_a_failed_call_lets_the_next_request_in(api: Json) -> None:
    stepfunctions = StepFunctions(outcome=ReadTimeoutError(endpoint_url="http://127.0.0.1"))
    client = Client(serve(api, stepfunctions, concurrency=1))
    assert [post(client).status_code for _ in range(3)] == [504, 504, 504]


def still() -> float:
    """A clock that has stopped."""
    return 0.0


def test_a_request_over_the_limit_is_refused_and_starts_nothing(api: Json, stepfunctions: StepFunctions) -> None:
    client = Client(serve(api, stepfunctions, throttle=Throttle(rate=50, burst=3, clock=still)))
    assert [post(client).status_code for _ in range(3)] == [200, 200, 200]
    response = post(client)
    assert response.status_code == 429
    assert refusal(response) == "Too Many Requests"
    assert len(stepfunctions.calls) == 3


def test_tokens_return_at_the_rate_up_to_the_burst() -> None:
    seconds = 0.0
    throttle = Throttle(rate=2, burst=3, clock=lambda: seconds)

    def count_accepted(now: float) -> int:
        nonlocal seconds
        seconds = now
        return [throttle.try_take() for _ in range(5)].count(True)

    # After a quarter of a second there is half a token, which the refused requests do not use up.
    assert [count_accepted(now) for now in (0, 0.25, 0.5, 1.5, 1000)] == [3, 0, 1, 2, 3]


def test_requests_refused_by_policy_or_not_found_take_no_token(
    api_with: Callable[..., Json], stepfunctions: StepFunctions
) -> None:
    definition = api_with(AllowedSourceIps="203.0.113.7/32")
    client = Client(serve(definition, stepfunctions, throttle=Throttle(rate=1, burst=1, clock=still)))
    elsewhere: Json = {"data": BODY, "environ_overrides": {"REMOTE_ADDR": "203.0.113.7"}}

    def others() -> list[int]:
        stranger = post(client, source_ip="192.0.2.1").status_code
        return [stranger, client.post("/", **elsewhere).status_code, client.put(PATH, **elsewhere).status_code]

    assert others() == [403, 404, 404]
    assert [post(client).status_code for _ in range(2)] == [200, 429]
    assert others() == [403, 404, 404]


def test_simultaneous_requests_get_no_more_than_the_burst() -> None:
    class Slow(float):
        """Lets another thread run while the tokens are counted."""

        def __rmul__(self, other: float) -> float:
            time.sleep(0.001)
            return other * float(self)

    throttle = Throttle(rate=Slow(1), burst=5, clock=still)
    taken: list[bool] = []
    threads = [threading.Thread(target=lambda: taken.append(throttle.try_take())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 15 + [True] * 5


def test_api_gateways_own_response_applies_if_the_api_defines_none(api: Json, stepfunctions: StepFunctions) -> None:
    own = {key: value for key, value in api.items() if key != "x-amazon-apigateway-gateway-responses"}
    response = Client(serve(own, stepfunctions)).get(PATH)
    assert (response.status_code, response.json) == (403, {"message": "Missing Authentication Token"})


def test_a_gateway_response_falls_back_to_the_apis_default(api: Json, stepfunctions: StepFunctions) -> None:
    name = "x-amazon-apigateway-gateway-responses"
    defaults = {**api, name: {"DEFAULT_4XX": api[name]["DEFAULT_4XX"]}}
    response = Client(serve(defaults, stepfunctions)).get(PATH)
    assert response.status_code == 403
    assert refusal(response) == "Missing Authentication Token"


class CloudFormation:
    """Stands in for boto3's client: one deployed stack, whose parameters may override the defaults."""

    def __init__(self, template: Json, body: Json, **parameters: str) -> None:
        self._template = {name: template[name] for name in ("Parameters", "Conditions")}
        # SAM moves these to the stage.
        moved = ("MethodSettings", "AccessLogSetting")
        self._stage = {name: template["Resources"]["CallbackApi"]["Properties"][name] for name in moved}
        self._body = body
        self._parameters = {"Branch": "test", "FailureMessage": FAILURE, **parameters}

    def get_template(self, **_: str) -> Json:
        resources = {
            "CallbackApi": {"Type": "AWS::ApiGateway::RestApi", "Properties": {"Body": self._body}},
            "CallbackApiStage": {
                "Type": "AWS::ApiGateway::Stage",
                "Properties": {"StageName": {"Ref": "Branch"}, **self._stage},
            },
            "Task": {"Type": "AWS::Lambda::Function", "Properties": {}},
        }
        return {"TemplateBody": {**self._template, "Resources": resources}}

    def describe_stacks(self, **_: str) -> Json:
        parameters = [{"ParameterKey": key, "ParameterValue": value} for key, value in self._parameters.items()]
        stack_id = "arn:aws:cloudformation:ap-southeast-1:123456789012:stack/payment3/1"
        return {"Stacks": [{"StackId": stack_id, "Parameters": parameters}]}

    def describe_stack_resources(self, **_: str) -> Json:
        arn = "arn:aws:states:ap-southeast-1:123456789012:stateMachine:payment3-bankapp-callback-test"
        return {"StackResources": [{"LogicalResourceId": "BankAppCallback", "PhysicalResourceId": arn}]}


@pytest.mark.parametrize(
    "parameters",
    [{}, {"AllowedSourceIps": ""}, {"AllowedSourceIps": ALL_KINDS}, {"SignatureHeader": "x-bank-hmac"}],
    ids=str,
)
def test_the_deployed_definition_is_the_templates_with_resolved_references(
    template: Json, api_with: Callable[..., Json], parameters: dict[str, str]
) -> None:
    body = template["Resources"]["CallbackApi"]["Properties"]["DefinitionBody"]
    deployed, *_ = read_deployed_api(CloudFormation(template, body, **parameters), "payment3")
    expected = copy.deepcopy(api_with(**parameters))
    # Nothing here assumes the integration's role.
    expected["paths"][PATH]["post"]["x-amazon-apigateway-integration"]["credentials"] = None
    assert deployed == expected


@pytest.mark.parametrize(
    ("parameters", "limits"),
    [({}, (50, 100)), ({"ThrottleRate": "7.5"}, (7.5, 100)), ({"ThrottleRate": "1", "ThrottleBurst": "2"}, (1, 2))],
    ids=str,
)
def test_the_limits_are_those_of_the_deployed_stage(
    template: Json, parameters: dict[str, str], limits: tuple[float, int]
) -> None:
    _, throttle, _ = read_deployed_api(CloudFormation(template, {}, **parameters), "payment3")
    assert (throttle.rate, throttle.burst) == limits


def test_a_reference_to_an_unknown_resource_is_an_error(template: Json) -> None:
    with pytest.raises(KeyError, match="Unknown"):
        read_deployed_api(CloudFormation(template, {"info": {"Fn::Sub": "a ${Unknown}"}}), "payment3")


# The access log, from which a metric counts the callbacks for which no execution started


def matches(pattern: str, line: Json) -> bool:
    """Return whether a metric filter's pattern matches, as CloudWatch documents it: `*` stands for any text."""

    def compare(found: re.Match[str]) -> str:
        field, operator, value = found.groups()
        return str(fnmatch.fnmatchcase(line[field], value) == (operator == "="))

    text = re.sub(r'\$\.(\w+) (!?=) "([^"]*)"', compare, pattern.strip("{ }"))
    assert set(re.findall(r"\w+", text)) <= {"True", "False"}
    return bool(eval(text.replace("&&", "and").replace("||", "or")))  # noqa: S307 only names of truth values


def is_counted(template: Json, line: Json) -> bool:
    return matches(template["Resources"]["CallbacksNotStarted"]["Properties"]["FilterPattern"], line)


@pytest.fixture
def access_log(template: Json, api: Json, stepfunctions: StepFunctions) -> Callable[..., Json]:
    *_, line_format = read_deployed_api(CloudFormation(template, {}, WatchApi="true"), "payment3")
    lines: list[str] = []
    gateway = Gateway(api, stepfunctions, Throttle(1, 1), access_log_format=line_format, log=lines.append)

    def request(outcome: Any = succeeded, path: str = PATH, **more: Any) -> Json:
        stepfunctions.outcome = outcome
        Client(gateway).post(path, **{"data": BODY, "content_type": "application/json", **more})
        line: Json = json.loads(lines.pop())
        return line

    return request


@pytest.mark.parametrize(
    ("outcome", "status", "integration", "error"),
    [
        (refused("AccessDeniedException", 400), "500", "400", "-"),
        (refused("ThrottlingException", 400), "429", "400", "-"),
        (refused("InternalServerException", 500), "500", "500", "-"),
        (ConnectTimeoutError(endpoint_url="x"), "504", "-", "INTEGRATION_TIMEOUT"),
    ],
    ids=["denied", "throttled", "broken", "no answer"],
)
def test_the_metric_counts_a_callback_for_which_no_execution_started(
    template: Json, access_log: Callable[..., Json], outcome: Exception, status: str, integration: str, error: str
) -> None:
    line = access_log(outcome)
    assert len(line.pop("requestId")) >= 15
    assert line == {"status": status, "integration": integration, "error": error}
    assert is_counted(template, line)


@pytest.mark.parametrize("integration", ["-", "200"])
def test_the_metric_counts_what_api_gateway_itself_cannot_do(template: Json, integration: str) -> None:
    """As for a role that it may not assume, and for a template that it cannot render."""
    assert is_counted(template, {"status": "500", "integration": integration, "error": "API_CONFIGURATION_ERROR"})


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({}, "200"),
        ({"outcome": succeeded(500)}, "500"),
        ({"outcome": ended("FAILED")}, "500"),
        ({"path": "/other"}, "404"),
        ({"content_type": "text/plain"}, "415"),
    ],
    ids=["recorded", "refused", "failed", "no such path", "no JSON"],
)
def test_the_metric_counts_neither_an_answer_of_the_workflow_nor_a_wrong_request(
    template: Json, access_log: Callable[..., Json], request_: Json, status: str
) -> None:
    line = access_log(**request_)
    assert line["status"] == status
    assert not is_counted(template, line)


def test_the_metric_does_not_count_what_the_throttle_refuses(template: Json, access_log: Callable[..., Json]) -> None:
    lines = [access_log(), access_log()]
    assert [(line["status"], line["error"]) for line in lines] == [("200", "-"), ("429", "THROTTLED")]
    assert not is_counted(template, lines[1])


def test_the_access_log_is_off_unless_its_parameter_is_on(template: Json) -> None:
    *_, line_format = read_deployed_api(CloudFormation(template, {}), "payment3")
    assert line_format == ""
