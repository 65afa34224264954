import copy
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
from werkzeug.test import Client, TestResponse

from local.gateway import MAX_BODY_BYTES, Gateway, Throttle, deployed_definition, deployed_throttle

PATH = "/bankapp/callback"
BODY = '{"orderId": "1", "amount": 1.50}'
FAILURE = "Failed to process bank app callback"
ANSWER = '{"success": true, "message": "ชำระ O\'Brien \\"1.50\\" $x #end"}'


def ended(status: str, **more: Any) -> dict[str, Any]:
    """What boto3 returns for an execution that ended so."""
    return {
        "executionArn": "arn:aws:states:ap-southeast-1:123456789012:express:payment3-bankapp-callback-test:1:1",
        "startDate": datetime(2026, 11, 22, tzinfo=UTC),
        "status": status,
        **more,
        "ResponseMetadata": {"HTTPStatusCode": 200, "RequestId": "r"},
    }


def succeeded(status: int = 200, body: str = ANSWER) -> dict[str, Any]:
    return ended("SUCCEEDED", output=json.dumps({"statusCode": status, "body": body}))


def refused(code: str, status: int) -> ClientError:
    metadata = {"HTTPStatusCode": status}
    return ClientError({"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": metadata}, "StartSyncExecution")


@dataclass
class StepFunctions:
    """Stands in for boto3's client: keeps what it was asked and does what it is told."""

    outcome: Any = None
    calls: list[dict[str, Any]] = field(default_factory=list)

    def start_sync_execution(self, **parameters: Any) -> dict[str, Any]:
        self.calls.append(parameters)
        outcome = self.outcome() if callable(self.outcome) else self.outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def deliveries(self) -> list[dict[str, Any]]:
        return [json.loads(call["input"]) for call in self.calls]


@pytest.fixture
def stepfunctions() -> StepFunctions:
    return StepFunctions(outcome=succeeded)


def serve(
    definition: dict[str, Any], stepfunctions: StepFunctions, concurrency: int = 4, throttle: Throttle | None = None
) -> Gateway:
    return Gateway(definition, stepfunctions, throttle or Throttle(rate=1, burst=1000), concurrency)


@pytest.fixture
def client(api: dict[str, Any], stepfunctions: StepFunctions) -> Client:
    return Client(serve(api, stepfunctions))


def post(
    client: Client,
    data: str | bytes = BODY,
    content_type: str | None = "application/json",
    source_ip: str = "203.0.113.7",
) -> TestResponse:
    return client.post(PATH, data=data, content_type=content_type, environ_overrides={"REMOTE_ADDR": source_ip})


def refusal(response: TestResponse) -> str:
    """The error of an answer that says that a callback failed, in the shape that all of them have."""
    assert response.content_type == "application/json"
    answer = json.loads(response.get_data(as_text=True))
    assert answer == {"success": False, "error": answer["error"], "message": FAILURE}
    return answer["error"].replace(response.headers["x-amz-apigw-id"], "<id>").replace(request_id(response), "<id>")


def request_id(response: TestResponse) -> str:
    """The id by which a delivery is known: API Gateway's own, without its signs."""
    return re.sub("[^A-Za-z0-9_-]", "", response.headers["x-amz-apigw-id"])


def test_a_callback_starts_one_execution_named_as_the_request(client: Client, stepfunctions: StepFunctions) -> None:
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


def test_every_request_has_an_id_of_its_own(client: Client, stepfunctions: StepFunctions) -> None:
    assert request_id(post(client)) != request_id(post(client))
    assert len({call["name"] for call in stepfunctions.calls}) == 2


def test_no_caller_can_choose_the_id(client: Client, stepfunctions: StepFunctions) -> None:
    headers = {"Content-Type": "application/json", "x-amzn-RequestId": "chosen"}
    chosen = [client.post(PATH, data=BODY, headers=headers) for _ in range(2)]
    assert {response.headers["x-amzn-RequestId"] for response in chosen} == {"chosen"}
    assert "chosen" not in str(stepfunctions.calls)
    assert len({call["name"] for call in stepfunctions.calls}) == 2


def test_without_the_id_the_execution_has_its_own_name(
    client: Client, stepfunctions: StepFunctions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("local.gateway.base64", SimpleNamespace(urlsafe_b64encode=lambda _: b"=="))
    post(client)
    (call,) = stepfunctions.calls
    assert call.keys() == {"stateMachineArn", "input"}
    assert stepfunctions.deliveries()[0]["requestId"] == ""


def test_the_headers_passed_on_are_those_of_the_allow_list(client: Client, stepfunctions: StepFunctions) -> None:
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


@pytest.mark.parametrize("status", [200, 500])
def test_an_execution_that_succeeded_says_itself_what_is_answered(
    client: Client, stepfunctions: StepFunctions, status: int
) -> None:
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
def test_whatever_goes_wrong_is_answered_in_one_shape_and_without_its_cause(
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
def test_the_status_of_the_call_selects_the_response_and_its_template(
    api: dict[str, Any], outcome: Any, status: int, body: str
) -> None:
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
def test_a_caller_of_the_allow_list_is_let_in(
    api_with: Callable[..., dict[str, Any]], stepfunctions: StepFunctions, allowed: str, source_ip: str
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
def test_any_other_caller_is_refused_before_anything_is_started(
    api_with: Callable[..., dict[str, Any]], stepfunctions: StepFunctions, allowed: str, source_ip: str
) -> None:
    client = Client(serve(api_with(AllowedSourceIps=allowed), stepfunctions))
    response = post(client, source_ip=source_ip)
    assert response.status_code == 403
    assert refusal(response) == "User: anonymous is not authorized to perform: execute-api:Invoke"
    assert stepfunctions.calls == []


@pytest.mark.parametrize("source_ip", ["203.0.113.7", "127.0.0.1", "2001:db8::7"])
def test_without_an_allow_list_everybody_is_let_in(
    client: Client, api: dict[str, Any], stepfunctions: StepFunctions, source_ip: str
) -> None:
    assert "x-amazon-apigateway-policy" not in api
    assert post(client, source_ip=source_ip).status_code == 200
    assert len(stepfunctions.calls) == 1


def test_a_caller_cannot_give_itself_an_address_of_the_allow_list(
    api_with: Callable[..., dict[str, Any]], stepfunctions: StepFunctions
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
def test_json_is_taken_by_any_of_its_names_and_by_none(
    client: Client, stepfunctions: StepFunctions, content_type: str | None
) -> None:
    assert post(client, content_type=content_type).status_code == 200
    assert stepfunctions.deliveries()[0]["body"] == BODY


def test_a_request_over_10_mb_is_too_large(client: Client, stepfunctions: StepFunctions) -> None:
    response = post(client, b"a" * (MAX_BODY_BYTES + 1))
    assert response.status_code == 413
    assert refusal(response) == "Request Too Long"
    assert stepfunctions.calls == []


def test_a_body_over_the_workflows_limit_is_passed_on_cut(client: Client, stepfunctions: StepFunctions) -> None:
    assert post(client, "a" * 40_000).status_code == 200
    assert stepfunctions.deliveries()[0]["body"] == "a" * 32_769


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ("ชำระ 🎉 O'Brien".encode(), "ชำระ 🎉 O'Brien"),
        (b'{"orderId": "\xff\xfe"}', '{"orderId": "\ufffd\ufffd"}'),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        # What API Gateway makes of no body at all.
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
    # What a WSGI server makes of Transfer-Encoding: chunked.
    chunked = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True}
    response = client.post(PATH, data=b"a" * length, content_type="application/json", environ_overrides=chunked)
    assert response.status_code == status
    assert [len(delivery["body"]) for delivery in stepfunctions.deliveries()] == [min(length, 32_769)] * (status == 200)


def test_requests_beyond_the_concurrency_wait_for_their_turn(api: dict[str, Any]) -> None:
    lock = threading.Lock()
    running = 0
    most = 0

    def work() -> dict[str, Any]:
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


def test_a_failed_call_gives_its_turn_back(api: dict[str, Any]) -> None:
    stepfunctions = StepFunctions(outcome=ReadTimeoutError(endpoint_url="http://127.0.0.1"))
    client = Client(serve(api, stepfunctions, concurrency=1))
    assert [post(client).status_code for _ in range(3)] == [504, 504, 504]


def still() -> float:
    """A clock that stands."""
    return 0.0


def test_a_request_over_the_limit_is_refused_before_anything_is_started(
    api: dict[str, Any], stepfunctions: StepFunctions
) -> None:
    client = Client(serve(api, stepfunctions, throttle=Throttle(rate=50, burst=3, clock=still)))
    assert [post(client).status_code for _ in range(3)] == [200, 200, 200]
    response = post(client)
    assert response.status_code == 429
    assert refusal(response) == "Too Many Requests"
    assert len(stepfunctions.calls) == 3


def test_room_comes_back_at_the_rate_and_never_beyond_the_burst() -> None:
    seconds = 0.0
    throttle = Throttle(rate=2, burst=3, clock=lambda: seconds)

    def let_in(now: float) -> int:
        nonlocal seconds
        seconds = now
        return [throttle.lets_in() for _ in range(5)].count(True)

    # Half a token after a quarter of a second; what was refused has taken nothing of it.
    assert [let_in(now) for now in (0, 0.25, 0.5, 1.5, 1000)] == [3, 0, 1, 2, 3]


def test_who_is_refused_by_the_policy_or_finds_nothing_takes_no_room(
    api_with: Callable[..., dict[str, Any]], stepfunctions: StepFunctions
) -> None:
    definition = api_with(AllowedSourceIps="203.0.113.7/32")
    client = Client(serve(definition, stepfunctions, throttle=Throttle(rate=1, burst=1, clock=still)))
    elsewhere = {"data": BODY, "environ_overrides": {"REMOTE_ADDR": "203.0.113.7"}}

    def others() -> list[int]:
        stranger = post(client, source_ip="192.0.2.1").status_code
        return [stranger, client.post("/", **elsewhere).status_code, client.put(PATH, **elsewhere).status_code]

    assert others() == [403, 404, 404]
    assert [post(client).status_code for _ in range(2)] == [200, 429]
    assert others() == [403, 404, 404]


def test_requests_at_once_get_no_more_than_the_burst() -> None:
    class Slow(float):
        """Lets another thread in while the tokens are counted."""

        def __rmul__(self, other: float) -> float:
            time.sleep(0.001)
            return other * float(self)

    throttle = Throttle(rate=Slow(1), burst=5, clock=still)
    taken: list[bool] = []
    threads = [threading.Thread(target=lambda: taken.append(throttle.lets_in())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 15 + [True] * 5


def test_a_gateway_response_that_the_api_does_not_define_is_api_gateways_own(
    api: dict[str, Any], stepfunctions: StepFunctions
) -> None:
    own = {key: value for key, value in api.items() if key != "x-amazon-apigateway-gateway-responses"}
    response = Client(serve(own, stepfunctions)).get(PATH)
    assert (response.status_code, response.json) == (403, {"message": "Missing Authentication Token"})


def test_a_gateway_response_falls_back_on_the_apis_default(api: dict[str, Any], stepfunctions: StepFunctions) -> None:
    name = "x-amazon-apigateway-gateway-responses"
    defaults = {**api, name: {"DEFAULT_4XX": api[name]["DEFAULT_4XX"]}}
    response = Client(serve(defaults, stepfunctions)).get(PATH)
    assert response.status_code == 403
    assert refusal(response) == "Missing Authentication Token"


class CloudFormation:
    """Stands in for boto3's client: one deployed stack, its parameters given or left to their defaults."""

    def __init__(self, template: dict[str, Any], body: dict[str, Any], **parameters: str) -> None:
        self._template = {name: template[name] for name in ("Parameters", "Conditions")}
        self._method_settings = template["Resources"]["CallbackApi"]["Properties"]["MethodSettings"]
        self._body = body
        self._parameters = {"Branch": "test", "FailureMessage": FAILURE, **parameters}

    def get_template(self, **_: str) -> dict[str, Any]:
        resources = {
            "CallbackApi": {"Type": "AWS::ApiGateway::RestApi", "Properties": {"Body": self._body}},
            # What SAM makes of the API's MethodSettings.
            "CallbackApiStage": {
                "Type": "AWS::ApiGateway::Stage",
                "Properties": {"StageName": {"Ref": "Branch"}, "MethodSettings": self._method_settings},
            },
            "Task": {"Type": "AWS::Lambda::Function", "Properties": {}},
        }
        return {"TemplateBody": {**self._template, "Resources": resources}}

    def describe_stacks(self, **_: str) -> dict[str, Any]:
        parameters = [{"ParameterKey": key, "ParameterValue": value} for key, value in self._parameters.items()]
        stack_id = "arn:aws:cloudformation:ap-southeast-1:123456789012:stack/payment3/1"
        return {"Stacks": [{"StackId": stack_id, "Parameters": parameters}]}

    def describe_stack_resources(self, **_: str) -> dict[str, Any]:
        arn = "arn:aws:states:ap-southeast-1:123456789012:stateMachine:payment3-bankapp-callback-test"
        return {"StackResources": [{"LogicalResourceId": "BankAppCallback", "PhysicalResourceId": arn}]}


@pytest.mark.parametrize(
    "parameters",
    [{}, {"AllowedSourceIps": ""}, {"AllowedSourceIps": ALL_KINDS}, {"SignatureHeader": "x-bank-hmac"}],
    ids=str,
)
def test_the_deployed_definition_is_the_templates_with_its_references_resolved(
    template: dict[str, Any], api_with: Callable[..., dict[str, Any]], parameters: dict[str, str]
) -> None:
    body = template["Resources"]["CallbackApi"]["Properties"]["DefinitionBody"]
    deployed = deployed_definition(CloudFormation(template, body, **parameters), "payment3")
    expected = copy.deepcopy(api_with(**parameters))
    # Nothing here assumes the role.
    expected["paths"][PATH]["post"]["x-amazon-apigateway-integration"]["credentials"] = None
    assert deployed == expected


@pytest.mark.parametrize(
    ("parameters", "limits"),
    [({}, (50, 100)), ({"ThrottleRate": "7.5"}, (7.5, 100)), ({"ThrottleRate": "1", "ThrottleBurst": "2"}, (1, 2))],
    ids=str,
)
def test_the_limits_are_those_of_the_deployed_stage(
    template: dict[str, Any], parameters: dict[str, str], limits: tuple[float, int]
) -> None:
    throttle = deployed_throttle(CloudFormation(template, {}, **parameters), "payment3")
    assert (throttle.rate, throttle.burst) == limits


def test_a_reference_to_what_was_not_deployed_is_an_error(template: dict[str, Any]) -> None:
    with pytest.raises(KeyError, match="Unknown"):
        deployed_definition(CloudFormation(template, {"info": {"Fn::Sub": "a ${Unknown}"}}), "payment3")
