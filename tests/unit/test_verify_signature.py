import base64
import hmac
import json
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from types import ModuleType
from typing import Any

import pytest
from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from callbacks.errors import ConfigurationError, InvalidSignature, ServiceUnavailable
from local.stack import ROOT

BODY = json.loads((ROOT / "events/paid.json").read_text())["body"]
RECEIVED_AT = 1795341600000
SECONDS = RECEIVED_AT // 1000
MESSAGE_ID = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_KEY = "whsec_bm90IHRoZSBrZXkgdGhhdCB3YXMgbWVhbnQ="
PASSED = "passed"
NO_MATCH = "signature: does not match"
# The same number, in digits that are none of ASCII.
ARABIC, FULLWIDTH = (str(SECONDS).translate({48 + n: zero + n for n in range(10)}) for zero in (0x660, 0xFF10))

Task = ModuleType
Verify = Callable[..., dict[str, Any]]


def signature(body: str = BODY, key: str = KEY, message_id: str = MESSAGE_ID, seconds: int = SECONDS) -> str:
    """What the reference implementation of Standard Webhooks makes of a message."""
    return Webhook(key).sign(message_id, datetime.fromtimestamp(seconds, UTC), body)


def signed(body: str = BODY, **changes: Any) -> dict[str, Any]:
    """The headers of a callback that is signed as Standard Webhooks says."""
    seconds, message_id = changes.get("seconds", SECONDS), changes.get("message_id", MESSAGE_ID)
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": signature(body, **changes),
    }


def event(headers: Any, body: Any = BODY, received_at: Any = RECEIVED_AT, **changes: Any) -> dict[str, Any]:
    """What the state passes on."""
    return {
        "delivery": {
            "body": body,
            "requestId": "8f7e6d5c",
            "receivedAt": received_at,
            "sourceIp": "203.0.113.7",
            "headers": headers,
        },
        "executionName": "execution",
        "startedAt": "2026-11-22T10:00:00.100Z",
        "mode": "enforce",
        "scheme": "standard",
        "header": "x-signature",
        "encoding": "hex",
        "secret": "kbank-test",
        **changes,
    }


@pytest.fixture
def task(load: Callable[..., ModuleType], service: Any) -> ModuleType:
    """The task with a Secrets Manager that keeps KEY."""
    service.keeps_secret({"webhookSecrets": [KEY]})
    return load("verify_signature", AWS_ENDPOINT_URL=service.url)


def refusal(task: ModuleType, event: dict[str, Any]) -> str:
    """The message with which a callback is refused."""
    with pytest.raises(InvalidSignature) as error:
        task.handler(event, None)
    assert BODY not in str(error.value)
    return str(error.value)


# Standard Webhooks


def test_a_callback_that_the_bank_signed_passes(task: Task, log: Callable[[], list[dict[str, Any]]]) -> None:
    assert task.handler(event(signed()), None) == PASSED
    assert log() == []


def test_the_task_and_the_reference_implementation_agree(task: Task) -> None:
    now = datetime.now(UTC)
    headers = signed(seconds=int(now.timestamp()))
    Webhook(KEY).verify(BODY, headers)
    assert task.handler(event(headers, received_at=int(now.timestamp() * 1000)), None) == PASSED


def test_the_example_of_the_standard_itself_passes(task: Task) -> None:
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert task.handler(event(headers, '{"test": 2432232314}', 1614265330000), None) == PASSED


@pytest.mark.parametrize("body", ["", " ", "{}", '{"a": "ชำระ 🎉"}', "\x00\r\n\ufeff", "a" * 100_000])
def test_any_text_may_be_signed_for_it_is_only_bytes(task: Task, body: str) -> None:
    assert task.handler(event(signed(body), body), None) == PASSED


def test_a_key_may_be_written_without_its_prefix(task: Task, service: Any) -> None:
    service.keeps_secret({"webhookSecrets": [KEY.removeprefix("whsec_")]})
    assert task.handler(event(signed()), None) == PASSED


@pytest.mark.parametrize(
    "signatures",
    [
        "{other} {right}",
        "{right} {other}",
        "{other} {other} {right} {other}",
        "v1a,{right} {right}",
        "garbage {right}",
        "  {right}  ",
        "v1, v1,= {right}",
    ],
)
def test_one_right_signature_among_several_is_enough(task: Task, signatures: str) -> None:
    text = signatures.format(right=signature(), other=signature(key=OTHER_KEY))
    assert task.handler(event({**signed(), "webhook-signature": text}), None) == PASSED


@pytest.mark.parametrize("key", [KEY, OTHER_KEY])
def test_the_old_and_the_new_key_are_both_good_while_they_are_rotated(task: Task, service: Any, key: str) -> None:
    service.keeps_secret({"webhookSecrets": [OTHER_KEY, KEY]})
    assert task.handler(event(signed(key=key)), None) == PASSED
    assert len(service.requests) == 1


def test_a_key_that_came_after_the_secret_was_read_is_found_by_reading_it_once_more(task: Task, service: Any) -> None:
    assert task.handler(event(signed()), None) == PASSED
    service.keeps_secret({"webhookSecrets": [OTHER_KEY, KEY]})
    for _ in range(3):
        assert task.handler(event(signed(key=OTHER_KEY)), None) == PASSED
    assert len(service.requests) == 2


def test_a_key_that_was_taken_out_is_refused_after_five_minutes(
    task: Task, service: Any, later: Callable[[float], None]
) -> None:
    task.handler(event(signed()), None)
    service.keeps_secret({"webhookSecrets": [OTHER_KEY]})
    later(301)
    assert refusal(task, event(signed())) == NO_MATCH


def test_forged_callbacks_cause_one_look_at_the_secret_in_thirty_seconds(
    task: Task, service: Any, later: Callable[[float], None]
) -> None:
    task.handler(event(signed()), None)
    for _ in range(20):
        assert refusal(task, event(signed(key=OTHER_KEY))) == NO_MATCH
        later(1)
    assert len(service.requests) == 2
    later(11)
    assert refusal(task, event(signed(key=OTHER_KEY))) == NO_MATCH
    assert len(service.requests) == 3


@pytest.mark.parametrize("headers", [{}, {**signed(), "webhook-timestamp": "1"}], ids=["unsigned", "old"])
def test_a_callback_that_is_refused_by_its_headers_costs_no_look_at_the_secret(
    task: Task, service: Any, headers: dict[str, str]
) -> None:
    refusal(task, event(headers))
    assert service.requests == []


# Time


@pytest.mark.parametrize(
    ("milliseconds", "is_accepted"),
    [
        (0, True),
        (299_999, True),
        (300_000, True),
        (300_001, False),
        (301_000, False),
        (86_400_000, False),
        (-299_999, True),
        (-300_000, True),
        (-300_001, False),
        (-86_400_000, False),
    ],
)
def test_a_signature_is_good_for_five_minutes_around_the_time_of_receipt(
    task: Task, milliseconds: int, is_accepted: bool
) -> None:
    delivered = event(signed(), received_at=RECEIVED_AT + milliseconds)
    if is_accepted:
        assert task.handler(delivered, None) == PASSED
    else:
        assert refusal(task, delivered) == "webhook-timestamp: is more than five minutes off"


def test_a_callback_of_long_ago_can_be_run_again_for_its_time_is_that_of_its_receipt(task: Task) -> None:
    long_ago = 1577836800
    delivered = event(signed(seconds=long_ago), received_at=long_ago * 1000, startedAt="2026-11-22T10:00:00Z")
    assert task.handler(delivered, None) == PASSED


@pytest.mark.parametrize("received_at", [None, "now", True, [], 1e300, float("nan")], ids=str)
def test_a_callback_without_a_time_of_receipt_is_compared_with_the_start_of_its_execution(
    task: Task, received_at: Any
) -> None:
    started = datetime.fromtimestamp(SECONDS, UTC) + timedelta(minutes=5)
    assert task.handler(event(signed(), received_at=received_at, startedAt=started.isoformat()), None) == PASSED
    started += timedelta(milliseconds=1)
    assert "off" in refusal(task, event(signed(), received_at=received_at, startedAt=started.isoformat()))


@pytest.mark.parametrize(
    "timestamp",
    [
        f"{SECONDS}.0",
        f"{SECONDS}e0",
        f"+{SECONDS}",
        f"-{SECONDS}",
        f" {SECONDS}",
        f"{SECONDS}\n",
        "1_795_341_600",
        ARABIC,
        FULLWIDTH,
        "²",
        "0x6B02F5E0",
        "2026-11-22T10:00:00Z",
        "now",
        "NaN",
        "inf",
        "1" * 13,
        "9" * 5000,
    ],
    ids=lambda text: ascii(text)[:24],
)
def test_a_timestamp_that_is_not_a_plain_number_of_seconds_is_refused(task: Task, timestamp: str) -> None:
    content = f"{MESSAGE_ID}.{timestamp}.{BODY}".encode()
    key = base64.b64decode(KEY.removeprefix("whsec_"))
    text = "v1," + base64.b64encode(hmac.digest(key, content, sha256)).decode()
    headers = {**signed(), "webhook-timestamp": timestamp, "webhook-signature": text}
    assert refusal(task, event(headers)) == "webhook-timestamp: is not a number of seconds"


@pytest.mark.parametrize("timestamp", ["0", "9" * 12, str(RECEIVED_AT)[:12]])
def test_a_timestamp_of_another_age_is_refused(task: Task, timestamp: str) -> None:
    assert refusal(task, event({**signed(), "webhook-timestamp": timestamp})).startswith("webhook-timestamp: ")


# What was altered


@pytest.fixture
def noting(task: Task) -> Task:
    """The task, which has read the secret, so that an example of hypothesis costs no request."""
    task.handler(event(signed()), None)
    return task


def test_any_other_byte_in_the_body_is_refused(noting: Task) -> None:
    headers, original = signed(), BODY.encode()

    @given(st.integers(0, len(original) - 1), st.integers(0, 0x7F))
    def check(position: int, byte: int) -> None:
        altered = original[:position] + bytes([byte]) + original[position + 1 :]
        if altered != original:
            assert refusal(noting, event(headers, altered.decode())) == NO_MATCH

    assert original.isascii()
    check()


def test_any_byte_more_or_less_in_the_body_is_refused(noting: Task) -> None:
    headers = signed()

    @given(st.integers(0, len(BODY)), st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]))
    def check(position: int, character: str) -> None:
        longer = BODY[:position] + character + BODY[position:]
        assert refusal(noting, event(headers, longer)) == NO_MATCH
        if position < len(BODY):
            assert refusal(noting, event(headers, BODY[:position] + BODY[position + 1 :])) == NO_MATCH

    check()


@pytest.mark.parametrize("position", range(32))
def test_any_other_byte_in_the_signature_is_refused(noting: Task, position: int) -> None:
    digest = bytearray(base64.b64decode(signature().removeprefix("v1,")))
    digest[position] ^= 1
    headers = {**signed(), "webhook-signature": f"v1,{base64.b64encode(digest).decode()}"}
    assert refusal(noting, event(headers)) == NO_MATCH


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("webhook-id", MESSAGE_ID[:-1]),
        ("webhook-id", MESSAGE_ID.lower()),
        ("webhook-id", f"{MESSAGE_ID} "),
        ("webhook-id", "\ud800"),
        ("webhook-timestamp", str(SECONDS + 1)),
        ("webhook-timestamp", str(SECONDS - 1)),
        ("webhook-timestamp", f"0{SECONDS}"),
    ],
)
def test_another_id_or_time_than_what_was_signed_is_refused(noting: Task, header: str, value: str) -> None:
    assert refusal(noting, event({**signed(), header: value})) == NO_MATCH


def test_a_signature_of_another_key_is_refused(noting: Task) -> None:
    assert refusal(noting, event(signed(key=OTHER_KEY))) == NO_MATCH


# Headers that are odd


@pytest.mark.parametrize("header", ["webhook-id", "webhook-timestamp", "webhook-signature"])
@pytest.mark.parametrize("value", [None, "", 1795341600, True, ["v1"], {"v1": "a"}], ids=str)
def test_a_header_that_is_missing_empty_or_no_text_is_named(task: Task, header: str, value: Any) -> None:
    assert refusal(task, event({**signed(), header: value})) == f"{header}: is missing"


@pytest.mark.parametrize("headers", [None, [], "webhook-id", 5, {}], ids=str)
def test_a_delivery_without_headers_is_refused(task: Task, headers: Any) -> None:
    assert refusal(task, event(headers)) == "webhook-id: is missing"


def test_header_names_are_lower_case_which_is_how_the_api_passes_them_on(task: Task, template: dict[str, Any]) -> None:
    headers = {name.title(): value for name, value in signed().items()}
    assert refusal(task, event(headers)) == "webhook-id: is missing"
    paths = template["Resources"]["CallbackApi"]["Properties"]["DefinitionBody"]["paths"]
    request = json.dumps(paths["/bankapp/callback"]["post"]["x-amazon-apigateway-integration"]["requestTemplates"])
    assert "$name.toLowerCase()${!q}:" in request


@pytest.mark.parametrize(
    "garbage",
    [
        "v1",
        "v1,",
        "v1,,",
        " ",
        "v1,not base64!",
        "v1,ชำระ",
        "v1,\ud800",
        "v1,AAAA",
        "v1," + "A" * 10_000,
        signature().removeprefix("v1,"),
        signature().replace("v1,", "v1a,"),
        signature().replace("v1,", "v2,"),
        signature().replace("v1,", "V1,"),
        signature().replace("v1,", "v1 ,"),
        signature().replace("v1,", "v1,v1,"),
        signature().replace("v1,", "v1;"),
        signature().rstrip("="),
        signature()[:-8],
        f"{signature()},{signature()}",
        f"{signature()}\t",
    ],
    ids=lambda text: ascii(text)[:24],
)
def test_garbage_matches_nothing(noting: Task, garbage: str) -> None:
    assert refusal(noting, event({**signed(), "webhook-signature": garbage})) == NO_MATCH


def test_thousands_of_signatures_are_looked_at_in_no_time(noting: Task, within: Any) -> None:
    many = " ".join([signature(key=OTHER_KEY), "v1,!", "v1a,x"] * 2000)
    with within(0.5):
        assert refusal(noting, event({**signed(), "webhook-signature": many})) == NO_MATCH
    assert noting.handler(event({**signed(), "webhook-signature": f"{many} {signature()}"}), None) == PASSED


@pytest.mark.parametrize("body", [None, 5, True, ["a"], {"a": "b"}, "half \ud83d", "\udc00{}"], ids=ascii)
def test_a_body_that_is_not_the_text_that_was_signed_is_refused(task: Task, body: Any) -> None:
    assert refusal(task, event(signed(), body)) == "body: is not the text that was signed"


@pytest.mark.parametrize("delivery", [None, "text", [], 5, {}], ids=str)
def test_an_input_of_any_shape_is_refused(task: Task, delivery: Any) -> None:
    assert refusal(task, {**event({}), "delivery": delivery}) == "body: is not the text that was signed"


# The plain scheme


def plain(encoding: str, key: str = KEY, body: str = BODY, **changes: Any) -> dict[str, Any]:
    digest = hmac.digest(key.encode(), body.encode(), sha256)
    text = digest.hex() if encoding == "hex" else base64.b64encode(digest).decode()
    headers = changes.pop("headers", {"x-signature": text})
    return event(headers, scheme="plain", encoding=encoding, **changes)


@pytest.mark.parametrize("encoding", ["hex", "base64"])
def test_a_plain_signature_of_the_body_passes_with_any_of_the_keys(task: Task, service: Any, encoding: str) -> None:
    service.keeps_secret({"webhookSecrets": ["not base64 at all: ชำระ", KEY]})
    assert task.handler(plain(encoding), None) == PASSED
    assert task.handler(plain(encoding, key="not base64 at all: ชำระ"), None) == PASSED
    assert refusal(task, plain(encoding, key="another")) == NO_MATCH
    assert refusal(task, plain(encoding, body="another")) == NO_MATCH


def test_a_plain_signature_in_hex_may_have_capital_letters(task: Task) -> None:
    text = hmac.digest(KEY.encode(), BODY.encode(), sha256).hex().upper()
    assert task.handler(plain("hex", headers={"x-signature": text}), None) == PASSED


def test_a_plain_signature_has_no_time_and_is_good_however_old(task: Task) -> None:
    assert task.handler(plain("hex", received_at=0), None) == PASSED


@pytest.mark.parametrize("header", ["x-bank-digest", "X-Bank-Digest"])
def test_the_header_of_a_plain_signature_is_named_by_a_setting(task: Task, header: str) -> None:
    text = hmac.digest(KEY.encode(), BODY.encode(), sha256).hex()
    delivered = plain("hex", headers={"x-bank-digest": text}, header=header)
    assert task.handler(delivered, None) == PASSED
    assert refusal(task, plain("hex", header=header)) == "x-bank-digest: is missing"


@pytest.mark.parametrize(
    ("encoding", "garbage"),
    [
        ("hex", "xyz"),
        ("hex", "abc"),
        ("hex", "00" * 32),
        ("hex", "ชำระ"),
        ("hex", "sha256=00"),
        ("base64", "xyz"),
        ("base64", "!"),
        ("base64", "ชำระ"),
        ("base64", " "),
    ],
)
def test_garbage_is_no_plain_signature(task: Task, encoding: str, garbage: str) -> None:
    assert refusal(task, plain(encoding, headers={"x-signature": garbage})) == NO_MATCH


@pytest.mark.parametrize(("encoding", "other"), [("hex", "base64"), ("base64", "hex")])
def test_a_plain_signature_in_the_other_encoding_is_refused(task: Task, encoding: str, other: str) -> None:
    headers = plain(other)["delivery"]["headers"]
    assert refusal(task, plain(encoding, headers=headers)) == NO_MATCH


@pytest.mark.parametrize("value", [None, "", 5, ["a"]], ids=str)
def test_a_plain_signature_that_is_missing_is_refused(task: Task, value: Any) -> None:
    assert refusal(task, plain("hex", headers={"x-signature": value})) == "x-signature: is missing"


# Settings


@pytest.mark.parametrize("scheme", ["", "Standard", "rsa"])
def test_an_unknown_scheme_is_a_configuration_error(task: Task, scheme: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a signature scheme; use standard or plain"):
        task.handler(event(signed(), scheme=scheme), None)


@pytest.mark.parametrize("encoding", ["", "HEX", "base32"])
def test_an_unknown_encoding_is_a_configuration_error(task: Task, encoding: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a signature encoding; use hex or base64"):
        task.handler(plain(encoding, headers={"x-signature": "00"}), None)


@pytest.mark.parametrize("mode", ["", "off", "Enforce"])
def test_an_unknown_mode_is_a_configuration_error_even_where_the_signature_is_good(task: Task, mode: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a mode of VerifySignature"):
        task.handler(event(signed(), mode=mode), None)


@pytest.mark.parametrize("scheme", ["standard", "plain"])
@pytest.mark.parametrize(
    "secret",
    [
        {},
        {"webhookSecrets": None},
        {"webhookSecrets": []},
        {"webhookSecrets": "hush-hush"},
        {"webhookSecrets": {"hush-hush": 1}},
        {"webhookSecrets": ["hush-hush", None]},
        {"webhookSecrets": ["hush-hush", 5]},
        {"webhookSecrets": ["hush-hush", ""]},
        ["hush-hush"],
        "hush-hush",
    ],
    ids=str,
)
def test_a_secret_without_a_list_of_keys_is_a_configuration_error_that_does_not_show_it(
    task: Task, service: Any, secret: Any, scheme: str
) -> None:
    service.keeps_secret(secret)
    delivered = event(signed()) if scheme == "standard" else plain("hex")
    with pytest.raises(ConfigurationError) as error:
        task.handler(delivered, None)
    assert "hush" not in as_lambda_shows(error.value)


@pytest.mark.parametrize("key", ["hush-hush", "whsec_hush-hush!", "whsec_", "whsec_hush", "ชำระ"])
def test_a_key_that_is_not_base64_or_empty_is_a_configuration_error_that_does_not_show_it(
    task: Task, service: Any, key: str
) -> None:
    service.keeps_secret({"webhookSecrets": [KEY, key]})
    if key == "whsec_hush":
        # Four letters are base64, whatever they say.
        assert task.handler(event(signed()), None) == PASSED
        return
    with pytest.raises(ConfigurationError, match=r"^A key in webhookSecrets is ") as error:
        task.handler(event(signed()), None)
    assert key.removeprefix("whsec_") == "" or key.removeprefix("whsec_") not in as_lambda_shows(error.value)


def as_lambda_shows(error: BaseException) -> str:
    """The message, and the trace of where it was raised, as Lambda hands them to Step Functions."""
    return str(error) + "".join(traceback.format_tb(error.__traceback__))


# The secret


@pytest.mark.parametrize(
    ("code", "status", "raised"),
    [
        ("ThrottlingException", 400, ServiceUnavailable),
        ("InternalServiceError", 500, ServiceUnavailable),
        ("ResourceNotFoundException", 400, GetParameterError),
        ("AccessDeniedException", 400, GetParameterError),
    ],
)
@pytest.mark.usefixtures("pauses")
def test_a_secret_that_cannot_be_read_is_an_error_and_no_forgery(
    task: Task, service: Any, code: str, status: int, raised: type[Exception]
) -> None:
    service.at.clear()
    service.refuses(code, status)
    with pytest.raises(raised, match=code):
        task.handler(event(signed()), None)


def test_a_secret_that_cannot_be_renewed_is_an_error_and_no_forgery(task: Task, service: Any) -> None:
    task.handler(event(signed()), None)
    service.at.clear()
    service.refuses("AccessDeniedException", 400)
    with pytest.raises(GetParameterError):
        task.handler(event(signed(key=OTHER_KEY)), None)


@pytest.mark.usefixtures("pauses")
def test_a_secrets_manager_that_does_not_answer_is_given_up_in_time(task: Task, service: Any, within: Any) -> None:
    service.hangs()
    with within(1.5), pytest.raises(ServiceUnavailable):
        task.handler(event(signed()), None)


# warn


@pytest.mark.parametrize(
    ("delivered", "note"),
    [
        (event(signed(key=OTHER_KEY)), "InvalidSignature: signature: does not match"),
        (event({}), "InvalidSignature: webhook-id: is missing"),
        (event(None, None), "InvalidSignature: body: is not the text that was signed"),
        ({**event({}), "delivery": "text"}, "InvalidSignature: body: is not the text that was signed"),
        (event(signed(seconds=1)), "InvalidSignature: webhook-timestamp: is more than five minutes off"),
        (event(signed(), scheme="rsa"), "ConfigurationError"),
        (plain("base32", headers={"x-signature": "00"}), "ConfigurationError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_check_that_fails_in_warn_is_noted_and_nothing_is_raised(
    task: Task, log: Callable[[], list[dict[str, Any]]], delivered: dict[str, Any], note: str
) -> None:
    assert task.handler({**delivered, "mode": "warn"}, None) == f"failed: {note}"
    (line,) = log()
    assert (line["check"], line["mode"], line["error"]) == ("VerifySignature", "warn", note.partition(":")[0])


@pytest.mark.parametrize(
    ("code", "status", "note"),
    [
        ("ThrottlingException", 400, "ServiceUnavailable"),
        ("InternalServiceError", 500, "ServiceUnavailable"),
        ("ResourceNotFoundException", 400, "GetParameterError"),
        ("AccessDeniedException", 400, "GetParameterError"),
    ],
)
@pytest.mark.usefixtures("pauses")
def test_a_secret_that_cannot_be_read_is_noted_in_warn_without_what_aws_says(
    task: Task, service: Any, code: str, status: int, note: str
) -> None:
    service.at.clear()
    service.refuses(code, status)
    assert task.handler(event(signed(), mode="warn"), None) == f"failed: {note}"


@pytest.mark.parametrize("secret", ["hush-hush", {"webhookSecrets": ["hush-hush"]}, {}], ids=str)
def test_a_secret_that_is_wrong_is_noted_in_warn(task: Task, service: Any, secret: Any) -> None:
    service.keeps_secret(secret)
    assert task.handler(event(signed(), mode="warn"), None) == "failed: ConfigurationError"


# What is shown


@pytest.mark.parametrize("delivered", [event(signed(key=OTHER_KEY)), plain("hex", key=OTHER_KEY)], ids=["v1", "plain"])
def test_a_refusal_shows_neither_signature_nor_key_nor_body(
    task: Task, log: Callable[[], list[dict[str, Any]]], delivered: dict[str, Any]
) -> None:
    with pytest.raises(InvalidSignature) as error:
        task.handler(delivered, None)
    shown = as_lambda_shows(error.value) + json.dumps(log())
    headers = delivered["delivery"]["headers"]
    right = base64.b64encode(hmac.digest(KEY.encode(), BODY.encode(), sha256)).decode()
    private = [*headers.values(), signature(), right, KEY, KEY.removeprefix("whsec_"), OTHER_KEY, BODY, "482500007436"]
    for text in private:
        assert text not in shown
    assert log()[0]["requestId"] == "8f7e6d5c"


def test_the_log_takes_the_executions_name_where_a_delivery_has_no_request_id(
    task: Task, log: Callable[[], list[dict[str, Any]]]
) -> None:
    refusal(task, {**event({}), "delivery": None})
    assert log()[0]["requestId"] == "execution"
