"""Nobody but the bank can pay an order, learn anything or break anything, whatever they send.

Each attack targets an existing order that would be paid if nothing were wrong with the callback. Here are the attacks
that headers, mapping templates or encodings on the way could let through; test_model.py and test_verify_signature.py
have those that only the rules must stop.
"""

import base64
import hmac
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import (
    ANSWER_SECONDS,
    BANK_KEY,
    CALLBACK_PATH,
    GENUINE,
    TOTAL,
    USER_ID,
    Answer,
    Body,
    Guarded,
    Headers,
    MakeBody,
    signed,
)
from tests.outcomes import FAILURE_MESSAGE
from tests.sources import CHECKS

OTHER_KEY = "whsec_" + base64.b64encode(b"removed from the secret").decode()
NOT_SIGNED = "webhook-id: is missing"
MISMATCH = "signature: does not match"
TIME_OFF = "webhook-timestamp: is more than five minutes off"
NO_TIME = "webhook-timestamp: is not a number of seconds"
NOT_JSON = "body: is not JSON"
MAX_BODY_BYTES = 8 * 1024

# Texts that would do harm if anything evaluated them as a template, a path or an intrinsic function.
LOADED_TEXTS = [
    pytest.param("$input.json('$')", id="request template"),
    pytest.param("$input.params().header #set($q = 1) ${q} #end", id="Velocity"),
    pytest.param('","body":"{}","modes":{"VerifySignature":"off"},"x":"', id="JSON"),
    pytest.param('\\","requestId":"chosen","x":"', id="escaped JSON"),
    pytest.param("States.Format('{}', $.delivery.callback)", id="intrinsic function"),
    pytest.param("$.checks.VerifySignature.verdict $$.Execution.Name", id="JSONPath"),
    pytest.param("${BankSecret} {{resolve:secretsmanager:kbank-local}}", id="template reference"),
    pytest.param("'; DROP TABLE orders; -- <script>alert(1)</script> ../../etc/passwd", id="SQL, HTML and paths"),
]


@pytest.fixture
def body(guarded: Guarded, make_body: MakeBody, order_id: str) -> str:
    """A callback that would pay an order if it were genuine."""
    guarded.put_order(order_id)
    return make_body()


@pytest.fixture
def genuine(guarded: Guarded, make_body: MakeBody, order_id: str) -> str:
    """A callback that pays an order if it arrives as the bank signed it."""
    guarded.put_order(GENUINE + order_id)
    return make_body(orderId=GENUINE + order_id)


def signed_bytes(body: bytes, timestamp: bytes | None = None) -> dict[str, str | bytes]:
    """Return the bank's headers for a body or a timestamp that the standard's library does not sign."""
    stamp = str(int(time.time())).encode() if timestamp is None else timestamp
    key = base64.b64decode(BANK_KEY.removeprefix("whsec_"))
    digest = hmac.digest(key, b"msg_1." + stamp + b"." + body, "sha256")
    return {
        "Content-Type": "application/json",
        "webhook-id": "msg_1",
        "webhook-timestamp": stamp,
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


def assert_refused(answer: Answer, error: str, status: int = 500) -> None:
    ours = {"success": False, "error": error, "message": FAILURE_MESSAGE}
    # Nobody can change API Gateway's answer to a request that is too large.
    assert (answer.status, answer.body) == (status, {"message": error} if status == 413 else ours)


def assert_untouched(guarded: Guarded, order_id: str) -> None:
    """Nothing was recorded and nothing dispatched."""
    assert guarded.records_of(order_id) == []
    assert guarded.payloads_of(order_id) == []


def assert_refused_without_a_reason(answer: Answer) -> None:
    assert_refused(answer, f"Internal error, request id {answer.request_id}")


# The signature


def test_a_replayed_callback_is_a_duplicate_and_is_not_dispatched_again(guarded: Guarded, genuine: str) -> None:
    headers = signed(genuine)
    answers = [guarded.send(genuine, headers) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    assert [answer.body["duplicate"] for answer in answers] == [False, True]
    assert guarded.payloads_of(json.loads(genuine)["orderId"]) == [genuine]


FORGERIES: dict[str, tuple[Callable[[str], Headers], str]] = {
    "not signed": (lambda _: {}, NOT_SIGNED),
    "signed with a retired key": (lambda body: signed(body, OTHER_KEY), MISMATCH),
    "an empty id": (lambda body: signed(body) | {"webhook-id": ""}, NOT_SIGNED),
    "an empty signature": (lambda body: signed(body) | {"webhook-signature": ""}, "webhook-signature: is missing"),
    "a thousand guesses": (lambda body: signed(body) | {"webhook-signature": " ".join(["v1,AAAA"] * 1000)}, MISMATCH),
    "headers with underscores": (
        lambda body: {name.replace("-", "_"): value for name, value in signed(body).items()},
        NOT_SIGNED,
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_callback_that_the_bank_did_not_sign_is_refused(
    guarded: Guarded, body: str, order_id: str, name: str
) -> None:
    forge, error = FORGERIES[name]
    assert_refused(guarded.send(body, forge(body)), error)
    assert_untouched(guarded, order_id)


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        pytest.param("2339.0", "2339.00", id="the same amount, spelled differently"),
        pytest.param("}", "} ", id="a space at the end"),
        pytest.param("}", "}\n", id="a line break at the end"),
        pytest.param("successful", "successfu\u217c", id="a letter that looks the same"),
    ],
)
def test_a_body_altered_after_signing_is_refused(
    guarded: Guarded, body: str, order_id: str, text: str, instead: str
) -> None:
    altered = body.replace(text, instead)
    assert altered != body
    assert_refused(guarded.send(altered, signed(body)), MISMATCH)
    assert_untouched(guarded, order_id)


@pytest.mark.parametrize(
    ("write", "error"),
    [
        pytest.param(lambda now: str(now - 330), TIME_OFF, id="more than five minutes old"),
        pytest.param(lambda now: str(now + 330), TIME_OFF, id="more than five minutes ahead"),
        pytest.param(lambda _: "9" * 5000, NO_TIME, id="5,000 digits"),
        pytest.param(lambda now: "".join(chr(0x0E50 + int(digit)) for digit in str(now)), NO_TIME, id="Thai digits"),
    ],
)
def test_the_banks_signature_of_another_time_is_refused(
    guarded: Guarded, body: str, order_id: str, write: Callable[[int], str], error: str
) -> None:
    headers = signed_bytes(body.encode(), write(int(time.time())).encode())
    assert_refused(guarded.send(body, headers), error)
    assert_untouched(guarded, order_id)


@pytest.mark.parametrize(
    ("header", "other", "error"),
    [
        ("webhook-signature", "v1," + base64.b64encode(bytes(32)).decode(), MISMATCH),
        ("webhook-id", "msg_2", MISMATCH),
        ("webhook-timestamp", "1", TIME_OFF),
        ("Webhook-Id", "msg_2", MISMATCH),
    ],
)
def test_of_a_header_that_appears_twice_the_last_value_counts(
    guarded: Guarded, genuine: str, order_id: str, header: str, other: str, error: str
) -> None:
    headers = list(signed(genuine).items())
    assert_refused(guarded.send(genuine, [*headers, (header, other)]), error)
    assert_untouched(guarded, GENUINE + order_id)
    assert guarded.send(genuine, [(header, other), *headers]).status == 200


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(str.upper, id="in capitals"),
        pytest.param(str.title, id="in title case"),
        pytest.param(str.swapcase, id="in the other case"),
    ],
)
def test_the_case_of_the_banks_headers_does_not_matter(
    guarded: Guarded, genuine: str, change: Callable[[str], str]
) -> None:
    headers = {change(name): value for name, value in signed(genuine).items()}
    assert guarded.send(genuine, headers).status == 200


def test_one_genuine_signature_among_several_is_enough(guarded: Guarded, genuine: str) -> None:
    headers = signed(genuine)
    signatures = f"v1a,other {signed(genuine, OTHER_KEY)['webhook-signature']} {headers['webhook-signature']}"
    assert guarded.send(genuine, headers | {"webhook-signature": signatures}).status == 200


def test_a_field_name_written_with_escapes_is_still_that_name(guarded: Guarded, genuine: str, order_id: str) -> None:
    escaped = genuine.replace("orderId", "\\u006frderId")
    assert guarded.send(escaped, signed(escaped)).status == 200
    assert guarded.payloads_of(GENUINE + order_id) == [escaped]


# The headers


def raw(guarded: Guarded, head: bytes, content: bytes = b"", *, is_all: bool = False) -> Answer:
    """Send bytes unchanged, then close our side if `is_all`; read the answer until the server closes its side."""
    address = urlsplit(guarded.server.url)
    with socket.create_connection((str(address.hostname), address.port), timeout=ANSWER_SECONDS) as connection:
        connection.sendall(b"POST /bankapp/callback HTTP/1.1\r\nHost: local\r\n" + head + b"\r\n" + content)
        if is_all:
            connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    top, _, answer = received.partition(b"\r\n\r\n")
    status, *fields = top.decode().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    is_ours = headers["Content-Type"] == "application/json"
    return Answer(int(status.split()[1]), headers, json.loads(answer) if is_ours else {})


def lines(headers: Headers) -> bytes:
    items = dict(headers).items()
    return b"".join(f"{name}: {value!s}\r\n".encode() for name, value in items)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        pytest.param(b"webhook-id: a\nwebhook-timestamp: 1\r\n", "webhook-signature: is missing", id="LF"),
        pytest.param(b"webhook-id: a\rwebhook-timestamp: 1\r\n", "webhook-signature: is missing", id="CR"),
        pytest.param(b"webhook-id: a\r\n webhook-timestamp: 1\r\n", "webhook-timestamp: is missing", id="folded"),
        pytest.param(b"webhook-id: a\0b\r\n", "webhook-timestamp: is missing", id="NUL"),
        pytest.param(b"webhook-id: \xff\xfe\xe0\xb8\x81\r\n", "webhook-timestamp: is missing", id="not ASCII"),
        pytest.param(b"webhook-id: " + b"a" * 60_000 + b"\r\n", "webhook-timestamp: is missing", id="60,000 bytes"),
        pytest.param(b"webhook-id: " + b"'" * 8000 + b"\r\n", "webhook-timestamp: is missing", id="8,000 apostrophes"),
        pytest.param(b"webhook-id : a\r\n", NOT_SIGNED, id="space before the colon"),
        pytest.param(b"webhook-id\r\n", NOT_SIGNED, id="no colon"),
        pytest.param(b": a\r\n", NOT_SIGNED, id="no name"),
    ],
)
def test_a_malformed_header_injects_no_other_header(
    guarded: Guarded, body: str, order_id: str, line: bytes, error: str
) -> None:
    content = body.encode()
    head = b"Content-Length: %d\r\nContent-Type: application/json\r\n" % len(content)
    assert_refused(raw(guarded, head + line, content), error)
    assert_untouched(guarded, order_id)


def test_a_request_id_chosen_by_the_caller_does_not_identify_a_delivery(guarded: Guarded) -> None:
    chosen = {"Content-Type": "application/json", "x-amzn-RequestId": "chosen"}
    answers = [guarded.send(body, chosen) for body in ("{}", '{"orderId": "1"}')]
    errors = [error for answer in answers for error in guarded.errors_of(answer)]
    assert [json.loads(error["event"])["body"] for error in errors] == ["{}", '{"orderId": "1"}']


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"webhook-id: " + b"a" * 70_000 + b"\r\n", id="70,000 bytes in one"),
        pytest.param(b"".join(b"x-%d: a\r\n" % number for number in range(200)), id="200"),
    ],
)
def test_more_headers_than_a_server_accepts_are_refused(
    guarded: Guarded, body: str, order_id: str, head: bytes
) -> None:
    assert raw(guarded, head + lines(signed(body)) + b"Content-Length: 0\r\n").status == 431
    assert_untouched(guarded, order_id)


@pytest.mark.parametrize("text", LOADED_TEXTS)
def test_a_refused_text_that_looks_like_a_template_is_kept_word_for_word(guarded: Guarded, text: str) -> None:
    headers = signed(text, OTHER_KEY, message_id=text) | {"User-Agent": text}
    answer = guarded.send(text, headers)
    assert_refused(answer, MISMATCH)
    (error,) = guarded.errors_of(answer)
    delivery = json.loads(error["event"])
    assert (delivery["body"], delivery["headers"]) == (text, {name.lower(): value for name, value in headers.items()})
    assert set(delivery) == {"body", "requestId", "receivedAt", "sourceIp", "headers"}


DECISION = '{"id":"mine","action":"accept"}'


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"decision": {"id": "mine", "action": "accept"}}, id="a field"),
        pytest.param({"message": f'","decision":{DECISION},"x":"'}, id="JSON"),
        pytest.param({"message": f'\\","decision":{DECISION},"x":"'}, id="escaped JSON"),
    ],
)
def test_no_input_decides_as_an_operator_does(
    guarded: Guarded, make_body: MakeBody, genuine: str, fields: dict[str, str]
) -> None:
    assert guarded.send(genuine, signed(genuine)).status == 200
    order_id = json.loads(genuine)["orderId"]
    body = make_body(orderId=order_id, amount=TOTAL + 1, **fields)
    for loaded in (body, body[:-1] + f"}},decision:{DECISION}", body[:-1] + f'}}","decision":{DECISION},"x":"'):
        headers = signed(loaded, message_id=f'","decision":{DECISION},"x":"')
        answer = guarded.send(
            loaded, {**headers, "decision": DECISION, "User-Agent": f'"}},"decision":{DECISION},"x":{{"'}
        )
        assert answer.status == 500
        (error,) = guarded.errors_of(answer)
        assert set(json.loads(error["event"])) == {"body", "requestId", "receivedAt", "sourceIp", "headers"}
    assert guarded.payloads_of(order_id) == [genuine]


@pytest.mark.parametrize("text", LOADED_TEXTS)
def test_a_signed_text_that_looks_like_a_template_stays_a_text(
    guarded: Guarded, make_body: MakeBody, order_id: str, text: str
) -> None:
    guarded.put_order(GENUINE + order_id)
    body = make_body(orderId=GENUINE + order_id, message=text)
    assert guarded.send(body, signed(body, message_id=text)).status == 200
    (record,) = guarded.records_of(GENUINE + order_id)
    assert (record["message"], json.loads(record["signatureHeaders"])["webhook-id"]) == (text, text)
    assert guarded.payloads_of(GENUINE + order_id) == [body]


@pytest.mark.parametrize("text", LOADED_TEXTS)
def test_an_id_that_looks_like_a_template_is_an_unknown_order(guarded: Guarded, make_body: MakeBody, text: str) -> None:
    body = make_body(orderId=text)
    assert_refused_without_a_reason(guarded.send(body, signed(body)))
    assert guarded.payloads_of(text) == []


# The body

JSON_TRICKS: dict[str, tuple[Callable[[str], str | bytes], str]] = {
    "a name twice, once escaped": (
        lambda body: more(body, '"\\u006frderId": "other"'),
        "orderId: appears more than once",
    ),
    "a name once more in another case": (
        lambda body: more(body, '"OrderId": "other"'),
        "orderId: is written in another case",
    ),
    "a name only in another case": (
        lambda body: body.replace("amount", "Amount"),
        "amount: is written in another case",
    ),
    "a blank before the user": (lambda body: body.replace(USER_ID, f" {USER_ID}"), "userId: must not begin or end"),
    "an escaped blank before an id": (
        lambda body: body.replace("pay_", "\\u0020pay_"),
        "paymentId: must not begin or end",
    ),
    "an accent after its letter": (
        lambda body: body.replace("pay_", "pay_e\u0301"),
        "paymentId: must be in Unicode's normal form",
    ),
    "lists without an end": (lambda _: "[" * 8_000, "body: is nested too deeply"),
    "a byte that is not UTF-8": (lambda body: body.encode().replace(b"2339", b"23\xff39"), MISMATCH),
    "an overlong slash": (lambda body: body.encode().replace(b"Payment", b"\xc0\xaf"), MISMATCH),
    "half a character in UTF-8": (lambda body: body.encode().replace(b"Payment", b"\xed\xa0\x80"), MISMATCH),
    "UTF-16": (lambda body: body.encode("utf-16"), MISMATCH),
    "UTF-16 without a mark": (lambda body: body.encode("utf-16-le"), NOT_JSON),
    "a byte order mark": (lambda body: "\ufeff" + body, "body: starts with a byte order mark"),
    "a null byte in a text": (lambda body: body.replace("Payment", "Pay\0ment"), NOT_JSON),
    "a null byte at the end": (lambda body: body + "\0", NOT_JSON),
    "an escaped null in an id": (lambda body: body.replace("pay_", "\\u0000"), "paymentId: contains an unprintable"),
    "right-to-left text in an id": (lambda body: body.replace("pay_", "\u202e"), "paymentId: contains an unprintable"),
    "half an escaped character": (
        lambda body: body.replace("Payment", "\\ud800"),
        "body: contains an unpaired surrogate",
    ),
    "two halves in the wrong order": (
        lambda body: more(body, '"\\udc00\\ud800": 1'),
        "body: contains an unpaired surrogate",
    ),
    "apostrophes": (lambda body: body.replace('"', "'"), NOT_JSON),
    "a text": (json.dumps, "body: must be a JSON object, not a string"),
    "blanks": (lambda _: " \r\n\t", "body: is empty"),
    "an empty object": (lambda _: "{}", "orderId: is missing; paymentId: is missing; userId: is missing"),
    "no body, signed as such": (lambda _: "", MISMATCH),
    "a byte too many": (lambda body: body.ljust(MAX_BODY_BYTES + 1), "body: has 8193 characters"),
    "a byte too many, with fewer characters": (
        lambda body: body.replace("Payment", "\u0e01" * (MAX_BODY_BYTES // 3)),
        "body: is larger than 8192 bytes",
    ),
    "10,000 unknown members": (lambda body: more(body, ", ".join(f'"{n}":0' for n in range(10_000))), "body: has "),
    "300 KB": (lambda body: body.ljust(300_000), "body: has 300000 characters"),
}


def more(body: str, members: str) -> str:
    return f"{body[:-1]}, {members}}}"


@pytest.mark.parametrize("name", JSON_TRICKS)
def test_a_malformed_body_is_refused_even_if_the_bank_signed_it(
    guarded: Guarded, body: str, order_id: str, name: str
) -> None:
    alter, error = JSON_TRICKS[name]
    altered = alter(body)
    content = altered if isinstance(altered, bytes) else altered.encode()
    answer = guarded.send(content, signed_bytes(content))
    assert answer.body["error"].startswith(error)
    assert_refused(answer, answer.body["error"])
    assert_untouched(guarded, order_id)


STATE_MEMBERS = [
    pytest.param({"modes": dict.fromkeys(CHECKS, "off")}, id="modes"),
    pytest.param({"checks": {check: {"verdict": "passed"} for check in CHECKS}}, id="checks"),
    pytest.param(
        {
            "earlier": {
                "modes": dict.fromkeys(CHECKS, "off"),
                "checks": {check: {"verdict": "passed"} for check in CHECKS},
            }
        },
        id="earlier verdicts",
    ),
    pytest.param({"delivery": {"callback": {"success": True}}, "headers": {"webhook-id": "msg_1"}}, id="delivery"),
    pytest.param({"isDone": True, "statusCode": 200, "body": '{"success": true}'}, id="answer"),
    pytest.param({"failure": None, "record": {"payment": "new"}, "dispatch": {"isDuplicate": False}}, id="results"),
    pytest.param({"stateMachineArn": "arn:of:another", "name": "chosen", "input": "{}"}, id="call"),
]


@pytest.mark.parametrize("members", STATE_MEMBERS)
def test_members_named_like_the_workflows_state_switch_nothing_off(
    guarded: Guarded, make_body: MakeBody, order_id: str, members: Body
) -> None:
    guarded.put_order(order_id)
    assert_refused(guarded.send(make_body(**members), {"Content-Type": "application/json"}), NOT_SIGNED)
    assert_untouched(guarded, order_id)

    contradicting = make_body(amount=1, **members)
    assert_refused_without_a_reason(guarded.send(contradicting, signed(contradicting)))
    assert guarded.payloads_of(order_id) == []


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"orderId": "no-such-order"}, id="an unknown order"),
        pytest.param({"userId": "somebody-else"}, id="another user"),
        pytest.param({"userId": USER_ID.upper()}, id="the user in capitals"),
        pytest.param({"amount": TOTAL - 1}, id="a smaller amount"),
        pytest.param({"amount": TOTAL * 100}, id="an amount in satang"),
        pytest.param({"amount": 0}, id="no amount"),
        pytest.param({"amount": None}, id="an amount that is missing"),
        pytest.param({"paymentId": "payment-of-another-order"}, id="another order's payment"),
    ],
)
def test_a_signed_callback_that_contradicts_its_order_pays_nothing(
    guarded: Guarded, make_body: MakeBody, order_id: str, changes: Body
) -> None:
    guarded.put_order(order_id)
    item = {"paymentId": {"S": "payment-of-another-order"}, "orderId": {"S": "1"}, "amount": {"N": str(TOTAL)}}
    guarded.stack.client("dynamodb").put_item(TableName="payment3-card-payment-record-master", Item=item)
    body = make_body(**changes)
    answer = guarded.send(body, signed(body))
    assert_refused_without_a_reason(answer)
    assert guarded.payloads_of(json.loads(body)["orderId"]) == []


def test_an_amount_that_equals_the_total_only_as_a_float_pays_nothing(
    guarded: Guarded, body: str, order_id: str
) -> None:
    almost = body.replace("2339.0", "2339.00000000000000000000000000000001")
    assert float(json.loads(almost)["amount"]) == TOTAL
    assert_refused_without_a_reason(guarded.send(almost, signed(almost)))
    assert guarded.payloads_of(order_id) == []


def test_of_ten_genuine_payments_of_an_order_at_once_one_at_most_passes_the_hold(
    guarded: Guarded, make_body: MakeBody, order_id: str
) -> None:
    order = GENUINE + order_id
    guarded.put_order(order)
    bodies = [make_body(orderId=order, paymentId=f"{order}-{number}") for number in range(10)]
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda body: guarded.send(body, signed(body)), bodies))
    held = [answer for answer in answers if answer.status != 200]
    assert len(guarded.payloads_of(order)) == 10 - len(held) <= 1
    for answer in held:
        assert_refused_without_a_reason(answer)
        assert [error["error"] for error in guarded.errors_of(answer)] == ["OrderPaidTwice"]


# The request


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *((method, CALLBACK_PATH) for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE")),
        ("POST", "/"),
        ("POST", "/bankapp"),
        ("POST", CALLBACK_PATH + "/"),
        ("POST", "/bankapp//callback"),
        ("POST", "/bankapp/../bankapp/callback"),
        ("POST", "/bankapp/%2e%2e/bankapp/callback"),
        ("POST", "/./bankapp/callback"),
        ("POST", CALLBACK_PATH + ";jsessionid=1"),
        ("POST", CALLBACK_PATH + "%00"),
        ("POST", CALLBACK_PATH + "%20"),
        ("POST", CALLBACK_PATH + ".json"),
        ("POST", "/BankApp/Callback"),
        ("POST", "/local" + CALLBACK_PATH),
        ("POST", "/bankapp%252fcallback"),
        ("POST", "/bankapp\\callback"),
        ("POST", "*"),
    ],
)
def test_a_signed_callback_by_another_method_or_path_is_not_found(
    guarded: Guarded, body: str, order_id: str, method: str, path: str
) -> None:
    answer = guarded.send(body, signed(body) | {"X-HTTP-Method-Override": "POST"}, method, path)
    if method == "HEAD":
        assert answer.status == 404
    else:
        assert_refused(answer, "Not found", 404)
    assert_untouched(guarded, order_id)


def test_no_second_stage_lets_callers_around_the_throttle(guarded: Guarded) -> None:
    apis = guarded.stack.client("apigateway")
    (api,) = apis.get_rest_apis()["items"]
    assert [stage["stageName"] for stage in apis.get_stages(restApiId=api["id"])["item"]] == ["local"]


@pytest.mark.parametrize(
    "path",
    [
        CALLBACK_PATH + "?webhook-id=msg_1&body=%7B%7D",
        CALLBACK_PATH + "?$input.path('$')",
        CALLBACK_PATH + "#/../_local/",
        "//bankapp/callback",
        "http://elsewhere.example/bankapp/callback",
    ],
)
def test_another_spelling_of_the_path_meets_the_same_check(
    guarded: Guarded, body: str, order_id: str, path: str
) -> None:
    assert_refused(guarded.send(body, {"Content-Type": "application/json"}, path=path), NOT_SIGNED)
    assert_untouched(guarded, order_id)


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "text/json",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "application/x-amz-json-1.0",
        "application/jsonp",
        "application/json,text/plain",
        "application/*",
        "*/*",
    ],
)
def test_a_signed_callback_of_another_content_type_is_refused(
    guarded: Guarded, body: str, order_id: str, content_type: str
) -> None:
    answer = guarded.send(body, signed(body) | {"Content-Type": content_type})
    assert_refused(answer, "Unsupported Media Type", 415)
    assert_untouched(guarded, order_id)


def test_an_aws_call_without_a_content_type_is_treated_as_a_callback(guarded: Guarded) -> None:
    call = json.dumps({"stateMachineArn": guarded.stack.outputs["StateMachineArn"], "name": "chosen", "input": "{}"})
    assert_refused(guarded.send(call), NOT_SIGNED)


def test_a_charset_does_not_change_how_the_bytes_are_read(guarded: Guarded, body: str, order_id: str) -> None:
    content = body.encode("utf-16")
    headers = signed_bytes(content) | {"Content-Type": "application/json; charset=utf-16"}
    assert_refused(guarded.send(content, headers), MISMATCH)
    assert_untouched(guarded, order_id)


def test_a_signed_body_over_ten_megabytes_is_refused(guarded: Guarded, body: str, order_id: str) -> None:
    huge = body.ljust(10 * 1024 * 1024 + 1)
    assert_refused(guarded.send(huge, signed(huge)), "Request Too Long", 413)
    assert_untouched(guarded, order_id)


@pytest.mark.parametrize(
    ("head", "status", "error"),
    [
        pytest.param("Content-Length: {less}", 500, MISMATCH, id="a length that is too small"),
        pytest.param("Content-Length: {more}", 400, "Invalid request body", id="a length that is too large"),
        pytest.param("Content-Length: -1", 500, MISMATCH, id="a negative length"),
        pytest.param("Content-Length: 0x10", 500, MISMATCH, id="a length that is not a number"),
        pytest.param("Host: local", 500, MISMATCH, id="no length"),
        pytest.param("Content-Length: {all}\r\nContent-Length: {less}", 500, MISMATCH, id="two lengths"),
        pytest.param("Transfer-Encoding: chunked", 400, "Invalid request body", id="a body that is not in chunks"),
        pytest.param("Transfer-Encoding: x-chunked", 500, MISMATCH, id="an unknown encoding"),
    ],
)
def test_a_false_length_makes_no_callback(
    guarded: Guarded, body: str, order_id: str, head: str, status: int, error: str
) -> None:
    content = body.encode()
    sizes = {"all": len(content), "less": len(content) - 1, "more": len(content) + 1}
    answer = raw(guarded, lines(signed(body)) + head.format(**sizes).encode() + b"\r\n", content, is_all=True)
    assert_refused(answer, error, status)
    assert_untouched(guarded, order_id)


@pytest.mark.parametrize(
    ("chunks", "status", "error"),
    [
        pytest.param(b"%(less)x\r\n%(content)s\r\n0\r\n\r\n", 400, "Invalid request body", id="a chunk that is longer"),
        pytest.param(b"%(more)x\r\n%(content)s", 400, "Invalid request body", id="a chunk that is shorter"),
        pytest.param(b"%(all)x\r\n%(content)s", 400, "Invalid request body", id="no end"),
        pytest.param(b"-1\r\n%(content)s\r\n0\r\n\r\n", 400, "Invalid request body", id="a negative size"),
        pytest.param(b"0\r\n\r\n%(content)s", 500, MISMATCH, id="an end before the beginning"),
        pytest.param(b"a00001\r\n%(huge)s\r\n0\r\n\r\n", 413, "Request Too Long", id="more than ten megabytes"),
    ],
)
def test_malformed_chunks_make_no_callback(
    guarded: Guarded, body: str, order_id: str, chunks: bytes, status: int, error: str
) -> None:
    content = body.encode()
    size = len(content)
    values = {
        b"content": content,
        b"huge": content.ljust(0xA00001),
        b"all": size,
        b"less": size - 1,
        b"more": size + 1,
    }
    head = lines(signed(body)) + b"Transfer-Encoding: chunked\r\n"
    assert_refused(raw(guarded, head, chunks % values, is_all=True), error, status)
    assert_untouched(guarded, order_id)


def test_a_request_hidden_behind_another_is_ignored(guarded: Guarded, body: str, order_id: str) -> None:
    content = body.encode()
    hidden = b"POST /bankapp/callback HTTP/1.1\r\nHost: local\r\n%sContent-Length: %d\r\n\r\n%s" % (
        lines(signed(body)),
        len(content),
        content,
    )
    head = b"Content-Type: application/json\r\nContent-Length: 2\r\nConnection: keep-alive\r\n"
    assert_refused(raw(guarded, head, b"{}" + hidden, is_all=True), NOT_SIGNED)
    assert_untouched(guarded, order_id)


@pytest.mark.parametrize("claim", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "True-Client-IP", "Host"])
def test_a_caller_outside_the_allow_list_is_refused_even_with_the_key(
    guarded: Guarded, body: str, order_id: str, claim: str
) -> None:
    answer = guarded.send(body, signed(body) | {claim: "127.0.0.1"}, source="127.0.0.2")
    assert answer.body["error"].startswith("User: anonymous is not authorized to perform: execute-api:Invoke on ")
    assert_refused(answer, answer.body["error"], 403)
    assert_untouched(guarded, order_id)
