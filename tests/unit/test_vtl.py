"""API Gateway's mapping templates as local/vtl.py renders them, checked against AWS's documentation."""

import json
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from local import vtl
from tests.unit.kit import Json

CONTEXT = {
    "requestId": "chosen",
    "extendedRequestId": "8f7e-6d_5c=",
    "requestTimeEpoch": 1795341600123,
    "identity": {"sourceIp": "203.0.113.7"},
}

Render = Callable[..., Json]


@pytest.fixture(scope="session")
def integration(api: Json) -> Json:
    found: Json = api["paths"]["/bankapp/callback"]["post"]["x-amazon-apigateway-integration"]
    return found


@pytest.fixture(scope="session")
def render(integration: Json) -> Render:
    """Return a function that renders the project's request template into the call of Step Functions."""
    return renderer(integration)


def renderer(integration: Json) -> Render:
    template = integration["requestTemplates"]["application/json"]
    return lambda body, headers=None: json.loads(vtl.render(template, CONTEXT, body, headers))


def ascii_start(text: str) -> str:
    return ascii(text[0])


def headers_of(request: Json) -> dict[str, str]:
    headers: dict[str, str] = json.loads(request["input"])["headers"]
    return headers


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("", ""),
        ("abc 123 ~", "abc 123 ~"),
        ("O'Brien", "O\\'Brien"),
        ('"', '\\"'),
        ("\\", "\\\\"),
        ("a/b", "a\\/b"),
        ("\b\f\n\r\t", "\\b\\f\\n\\r\\t"),
        ("\x00\x01\x0b\x1f", "\\u0000\\u0001\\u000B\\u001F"),
        ("\x7f", "\x7f"),
        ("\x80é", "\\u0080\\u00E9"),
        ("ชำ", "\\u0E0A\\u0E33"),
        ("\u2028", "\\u2028"),
        ("🎉", "\\uD83C\\uDF89"),
        ("\ud83c", "\\uD83C"),
        ("$#{}", "$#{}"),
    ],
)
def test_javascript_is_escaped_as_apaches_string_escape_utils_does(text: str, escaped: str) -> None:
    assert vtl.Util.escapeJavaScript(text) == escaped


@given(st.text())
def test_escaped_text_is_ascii_and_json_except_for_apostrophes(text: str) -> None:
    escaped = vtl.Util.escapeJavaScript(text)
    assert escaped.isascii()
    assert escaped.replace("\x7f", "").isprintable()
    # JSON reads the two halves of a pair as one character, even if they were apart.
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert json.loads('"' + escaped.replace("\\'", "'") + '"') == joined


def test_the_request_names_the_machine_the_execution_and_the_delivery(render: Render) -> None:
    request = render('{"orderId": "1"}')
    assert request.keys() == {"stateMachineArn", "name", "input"}
    assert request["stateMachineArn"].endswith(":stateMachine:payment3-bankapp-callback-test")
    assert request["name"] == "8f7e-6d_5c"
    assert json.loads(request["input"]) == {
        "body": '{"orderId": "1"}',
        "requestId": "8f7e-6d_5c",
        "receivedAt": 1795341600123,
        "sourceIp": "203.0.113.7",
        "headers": {},
    }


# The rules refuse half a pair, and API Gateway never decodes one from UTF-8.
@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("O'Brien")
@example("\\'")
@example("\\\\''")
@example("\\u0027")
@example('"}],"stateMachineArn":"other"')
@example("$input.body ${q} $q #set($q = 1) #end ## #* *# $!{x}")
@example("\x00\x1f\x7f\x80\u2028\u2029\ufeff")
@example("ชำระเงินสำเร็จ 🎉")
@example(' {"amount": 1.50}\r\n')
def test_a_body_reaches_the_workflow_as_it_was_sent(render: Render, text: str) -> None:
    delivery = json.loads(render(text)["input"])
    # API Gateway replaces a missing body with an empty object.
    assert delivery["body"] == (text or "{}")
    assert delivery.keys() == {"body", "requestId", "receivedAt", "sourceIp", "headers"}


SIGNATURE = ("webhook-id", "webhook-timestamp", "webhook-signature", "x-signature")


@given(st.sampled_from(["user-agent", *SIGNATURE]), st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
@example("user-agent", 'it\'s \\ "quoted" $input.body')
@example(
    "webhook-signature",
    "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4= v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGw==",
)
def test_a_header_reaches_the_workflow_as_it_was_sent(render: Render, name: str, text: str) -> None:
    assert headers_of(render("{}", {name: text})) == {name: text}


@pytest.mark.parametrize(
    "names", [("content-type", "user-agent"), ("Content-Type", "User-Agent"), ("CONTENT-TYPE", "uSER-aGENT")]
)
def test_only_headers_on_the_allow_list_are_kept_whatever_their_case(render: Render, names: tuple[str, str]) -> None:
    content_type, user_agent = names
    sent = {
        "Authorization": "Bearer secret",
        content_type: "application/json",
        "Cookie": "secret",
        "X-User-Agent": "secret",
        user_agent: "BankGateway/2.1",
        "X-Forwarded-For": "secret",
    }
    request = render("{}", sent)
    assert headers_of(request) == {"content-type": "application/json", "user-agent": "BankGateway/2.1"}
    assert "secret" not in request["input"]


@pytest.mark.parametrize("spelt", [str.lower, str.upper, str.title, str.capitalize])
def test_signature_headers_are_passed_on_in_lower_case(render: Render, spelt: Callable[[str], str]) -> None:
    assert headers_of(render("{}", {spelt(name): f"of {name}" for name in SIGNATURE})) == {
        name: f"of {name}" for name in SIGNATURE
    }


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "Cookie",
        "X-Forwarded-For",
        "X-Api-Key",
        "Host",
        "Signature",
        "X-Signature-2",
        "X-X-Signature",
        "Webhook",
        "Webhook-Id-2",
        "X-Webhook-Signature",
    ],
)
def test_no_other_header_is_passed_on_with_a_signature(render: Render, name: str) -> None:
    request = render("{}", {name: "secret", "x-signature": "9f86d081"})
    assert headers_of(request) == {"x-signature": "9f86d081"}
    assert "secret" not in request["input"]


def test_a_parameter_chooses_another_signature_header(
    api_with: Callable[..., Json],
) -> None:
    document = api_with(SignatureHeader="x-bank-hmac")
    render = renderer(document["paths"]["/bankapp/callback"]["post"]["x-amazon-apigateway-integration"])
    request = render("{}", {"X-Bank-Hmac": "9f86d081", "X-Signature": "secret", "Webhook-Id": "msg_1"})
    assert headers_of(request) == {"x-bank-hmac": "9f86d081", "webhook-id": "msg_1"}
    assert "secret" not in request["input"]


# The longest bodies that can be valid, in characters that escaping makes longer by each factor.
WHOLE = [text * (8_192 // len(text.encode())) for text in ("a", "'", '"', "\\", "/", "\x7f", "é", "ก", "🎉")]
# None is valid: they are longer in characters or bytes, or consist of raw control characters.
CUT = [text * number for text, number in (("a", 8_193), ("ก", 4_097), ("🎉", 2_049), ("\x01", 4_097), ("'", 300_000))]


@pytest.mark.parametrize("body", WHOLE, ids=ascii_start)
def test_a_body_that_can_be_valid_reaches_the_workflow_whole(render: Render, body: str) -> None:
    delivery = json.loads(render(body)["input"])
    assert delivery["body"] == body
    assert "bodyLength" not in delivery


@pytest.mark.parametrize("body", CUT, ids=ascii_start)
def test_any_longer_body_reaches_the_workflow_cut_and_with_its_length(render: Render, body: str) -> None:
    delivery = json.loads(render(body)["input"])
    assert delivery["body"] == body[: 256 if body[0] == "🎉" else 512]
    # As Java counts, in units of UTF-16.
    assert delivery["bodyLength"] == len(body) * (2 if body[0] == "🎉" else 1)


def test_a_body_is_never_cut_between_the_halves_of_a_character(render: Render) -> None:
    emoji = "🎉" * 5_000
    bodies = [json.loads(render("a" * before + emoji)["input"])["body"] for before in (0, 1, 2)]
    assert bodies == ["🎉" * 256, "a" + "🎉" * 255, "aa" + "🎉" * 255]


def test_a_header_is_cut_at_1024_characters(render: Render) -> None:
    sent = {"User-Agent": "a" * 9_000, "X-Signature": "b" * 1_024, "Webhook-Id": "c" + "🎉" * 4_500}
    assert headers_of(render("{}", sent)) == {
        "user-agent": "a" * 1_024,
        "x-signature": "b" * 1_024,
        "webhook-id": "c" + "🎉" * 511,
    }


def test_of_names_that_differ_in_case_the_last_one_is_passed_on(render: Render) -> None:
    sent = {"Webhook-Id": "first", "user-agent": "BankGateway/2.1", "WEBHOOK-ID": "second", "webhook-id": "last"}
    text = render("{}", sent)["input"]
    assert json.loads(text)["headers"] == {"webhook-id": "last", "user-agent": "BankGateway/2.1"}
    assert text.count('"webhook-id"') == 1


def test_the_largest_input_is_far_below_step_functions_limit(render: Render) -> None:
    # 262,144 bytes between states. API Gateway takes 10,240 bytes of headers.
    headers = dict.fromkeys([*SIGNATURE, "content-type", "user-agent"], "\x01" * 1_700)
    largest = max(len(render(body, headers)["input"].encode()) for body in (*WHOLE, *CUT, "\x01" * 4_096))
    assert 60_000 < largest < 64_000


@pytest.mark.parametrize(
    ("body", "expression", "found"),
    [
        ('{"status": "FAILED"}', "$.status", "FAILED"),
        ('{"status": "FAILED"}', "$.output", None),
        ('{"__type": "ThrottlingException"}', "$.__type", "ThrottlingException"),
        ("not JSON", "$.status", None),
        ("", "$.status", None),
    ],
)
def test_a_path_into_the_mapped_body_finds_a_value_or_nothing(body: str, expression: str, found: str | None) -> None:
    assert vtl.Input(body, {}).path(expression) == found


def test_a_template_can_assign_to_the_context() -> None:
    context: Json = {"responseOverride": {}}
    vtl.render("#set($context.responseOverride.status = 504)", context)
    assert context["responseOverride"] == {"status": 504}
