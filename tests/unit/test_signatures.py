import base64
import hmac
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from callbacks import signatures
from callbacks.errors import ConfigurationError, InvalidSignature
from tests.outcomes import body_of

BODY = body_of("paid")
RECEIVED_AT = datetime(2026, 11, 22, 10, tzinfo=UTC)
SECONDS = int(RECEIVED_AT.timestamp())
MESSAGE_ID = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_KEY = "whsec_bm90IHRoZSBrZXkgdGhhdCB3YXMgbWVhbnQ="
PLAIN_KEY = "not base64 at all: ชำระ"
# The same number in digits that are not ASCII.
ARABIC, FULLWIDTH = (str(SECONDS).translate({48 + n: zero + n for n in range(10)}) for zero in (0x660, 0xFF10))

type Headers = Mapping[str, Any]


def signature(body: str = BODY, key: str = KEY, message_id: str = MESSAGE_ID, seconds: int = SECONDS) -> str:
    """Sign as the reference implementation of Standard Webhooks does."""
    return Webhook(key).sign(message_id, datetime.fromtimestamp(seconds, UTC), body)


def headers_of(
    body: str = BODY, key: str = KEY, message_id: str = MESSAGE_ID, seconds: int = SECONDS
) -> dict[str, str]:
    """Return the headers of a delivery signed according to Standard Webhooks."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": signature(body, key, message_id, seconds),
    }


def is_accepted(
    headers: Headers, body: str = BODY, received_at: datetime = RECEIVED_AT, keys: Sequence[str] = (KEY,)
) -> bool:
    """Verify a standard delivery. Raises InvalidSignature if its headers are unusable."""
    signed = signatures.read_standard(headers, body.encode(), received_at)
    return signatures.is_signed(signed, signatures.keys_of({"webhookSecrets": list(keys)}, "standard").usable)


def problem(headers: Headers, received_at: datetime = RECEIVED_AT) -> str:
    """Return the message that refuses the headers."""
    with pytest.raises(InvalidSignature) as error:
        is_accepted(headers, received_at=received_at)
    return str(error.value)


def plain_headers(encoding: str, key: str = PLAIN_KEY, body: str = BODY) -> dict[str, str]:
    digest = hmac.digest(key.encode(), body.encode(), sha256)
    return {"x-signature": digest.hex() if encoding == "hex" else base64.b64encode(digest).decode()}


def is_accepted_plain(
    headers: Headers, encoding: str, body: str = BODY, header: str = "x-signature", keys: Sequence[str] = (PLAIN_KEY,)
) -> bool:
    signed = signatures.read_plain(headers, body.encode(), header, encoding)
    return signatures.is_signed(signed, signatures.keys_of({"webhookSecrets": list(keys)}, "plain").usable)


# Standard Webhooks


def test_the_reference_implementation_and_ours_agree() -> None:
    now = datetime.now(UTC)
    headers = headers_of(seconds=int(now.timestamp()))
    Webhook(KEY).verify(BODY, headers)
    assert is_accepted(headers, received_at=now)


def test_the_standards_own_example_is_accepted() -> None:
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert is_accepted(headers, '{"test": 2432232314}', datetime.fromtimestamp(1614265330, UTC))


@pytest.mark.parametrize("body", ["", " ", "{}", '{"a": "ชำระ 🎉"}', "\x00\r\n\ufeff", "a" * 100_000])
def test_any_text_may_be_signed(body: str) -> None:
    assert is_accepted(headers_of(body), body)


def test_a_key_may_be_written_without_its_prefix() -> None:
    assert is_accepted(headers_of(), keys=[KEY.removeprefix("whsec_")])


@pytest.mark.parametrize(
    "text",
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
def test_one_right_signature_among_several_is_enough(text: str) -> None:
    given_text = text.format(right=signature(), other=signature(key=OTHER_KEY))
    assert is_accepted({**headers_of(), "webhook-signature": given_text})


@pytest.mark.parametrize("key", [KEY, OTHER_KEY])
def test_each_of_several_keys_is_accepted(key: str) -> None:
    assert is_accepted(headers_of(key=key), keys=[OTHER_KEY, KEY])


def test_the_signature_of_another_key_does_not_match() -> None:
    assert not is_accepted(headers_of(key=OTHER_KEY))


@pytest.mark.parametrize(
    ("milliseconds", "is_in_time"),
    [(0, True), (299_999, True), (300_000, True), (300_001, False), (86_400_000, False)],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_signature_holds_for_five_minutes_around_receipt(milliseconds: int, sign: int, *, is_in_time: bool) -> None:
    received_at = RECEIVED_AT + sign * timedelta(milliseconds=milliseconds)
    if is_in_time:
        assert is_accepted(headers_of(), received_at=received_at)
    else:
        assert problem(headers_of(), received_at) == "webhook-timestamp: is more than five minutes off"


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
def test_a_timestamp_that_is_not_a_plain_number_of_seconds_is_refused(timestamp: str) -> None:
    content = f"{MESSAGE_ID}.{timestamp}.{BODY}".encode()
    digest = hmac.digest(base64.b64decode(KEY.removeprefix("whsec_")), content, sha256)
    headers = {**headers_of(), "webhook-timestamp": timestamp, "webhook-signature": f"v1,{encode(digest)}"}
    assert problem(headers) == "webhook-timestamp: is not a number of seconds"


@pytest.mark.parametrize("timestamp", ["0", "9" * 12, f"{SECONDS}00"])
def test_a_timestamp_of_another_age_is_refused(timestamp: str) -> None:
    headers = {**headers_of(), "webhook-timestamp": timestamp}
    assert problem(headers) == "webhook-timestamp: is more than five minutes off"


# Altered deliveries


@given(st.integers(0, len(BODY.encode()) - 1), st.integers(0, 0x7F))
def test_another_byte_in_the_body_does_not_match(position: int, byte: int) -> None:
    original = BODY.encode()
    altered = original[:position] + bytes([byte]) + original[position + 1 :]
    assert is_accepted(headers_of(), altered.decode()) is (altered == original)


@given(st.integers(0, len(BODY)), st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]))
def test_a_character_more_or_less_in_the_body_does_not_match(position: int, character: str) -> None:
    assert not is_accepted(headers_of(), BODY[:position] + character + BODY[position:])
    if position < len(BODY):
        assert not is_accepted(headers_of(), BODY[:position] + BODY[position + 1 :])


def encode(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def test_another_byte_anywhere_in_the_signature_does_not_match() -> None:
    digest = base64.b64decode(signature().removeprefix("v1,"))
    altered = [digest[:n] + bytes([digest[n] ^ 1]) + digest[n + 1 :] for n in range(len(digest))]
    accepted = [
        text for text in map(encode, altered) if is_accepted({**headers_of(), "webhook-signature": f"v1,{text}"})
    ]
    assert (len(altered), accepted) == (32, [])


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
def test_another_id_or_time_than_the_signed_one_does_not_match(header: str, value: str) -> None:
    assert not is_accepted({**headers_of(), header: value})


# Malformed headers


@pytest.mark.parametrize("header", ["webhook-id", "webhook-timestamp", "webhook-signature"])
@pytest.mark.parametrize("value", [None, "", 1795341600, True, ["v1"], {"v1": "a"}], ids=str)
def test_a_header_that_is_missing_empty_or_not_text_is_named(header: str, value: Any) -> None:
    assert problem({**headers_of(), header: value}) == f"{header}: is missing"


@pytest.mark.parametrize(
    "garbage",
    [
        "v1",
        "v1,",
        "none",
        f"v1,{signature().removeprefix('v1,').lower()}",
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
def test_garbage_matches_nothing(garbage: str) -> None:
    assert not is_accepted({**headers_of(), "webhook-signature": garbage})


def test_thousands_of_signatures_take_no_time(within: Any) -> None:
    many = " ".join([signature(key=OTHER_KEY), "v1,!", "v1a,x"] * 2000)
    with within(0.5):
        assert not is_accepted({**headers_of(), "webhook-signature": many})
    assert is_accepted({**headers_of(), "webhook-signature": f"{many} {signature()}"})


# The plain scheme


@pytest.mark.parametrize("encoding", ["hex", "base64"])
def test_a_plain_signature_of_the_body_is_accepted_with_any_key(encoding: str) -> None:
    keys = [KEY, PLAIN_KEY]
    assert is_accepted_plain(plain_headers(encoding), encoding, keys=keys)
    assert is_accepted_plain(plain_headers(encoding, key=KEY), encoding, keys=keys)
    assert not is_accepted_plain(plain_headers(encoding, key="another"), encoding, keys=keys)
    assert not is_accepted_plain(plain_headers(encoding, body="another"), encoding, keys=keys)


def test_a_plain_signature_in_hex_may_have_capital_letters() -> None:
    assert is_accepted_plain({"x-signature": plain_headers("hex")["x-signature"].upper()}, "hex")


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
        ("hex", plain_headers("base64")["x-signature"]),
        ("base64", plain_headers("hex")["x-signature"]),
    ],
)
def test_garbage_and_the_other_encoding_are_no_plain_signature(encoding: str, garbage: str) -> None:
    assert not is_accepted_plain({"x-signature": garbage}, encoding)


@pytest.mark.parametrize("value", [None, "", 5, ["a"]], ids=str)
def test_a_missing_plain_signature_is_named(value: Any) -> None:
    with pytest.raises(InvalidSignature, match=r"^x-digest: is missing$"):
        is_accepted_plain({"x-digest": value}, "hex", header="x-digest")


@pytest.mark.parametrize("encoding", ["", "HEX", "base32"])
def test_an_unknown_encoding_is_a_configuration_error(encoding: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a signature encoding; use hex or base64"):
        is_accepted_plain({"x-signature": "00"}, encoding)


# Keys


@pytest.mark.parametrize("scheme", ["standard", "plain"])
@pytest.mark.parametrize(
    "secret",
    [
        {},
        {"webhookSecrets": None},
        {"webhookSecrets": []},
        {"webhookSecrets": "hush-hush"},
        {"webhookSecrets": {"hush-hush": 1}},
    ],
    ids=str,
)
def test_a_secret_without_a_list_of_keys_is_a_configuration_error(secret: dict[str, Any], scheme: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^The secret needs webhookSecrets, a list of keys\.$"):
        signatures.keys_of(secret, scheme)


@pytest.mark.parametrize(
    ("scheme", "key", "problem"),
    [
        *(
            ("standard", key, "is not base64, as Standard Webhooks requires")
            for key in ("hush-hush", "whsec_hush!", "ชำระ")
        ),
        ("standard", "whsec_", "is empty"),
        ("plain", "", "is empty"),
        ("plain", "hush \ud800", "is not text"),
        *((scheme, key, "is not text") for scheme in ("standard", "plain") for key in (None, 5, ["hush-hush"])),
    ],
)
def test_a_mistyped_key_costs_no_other_key_and_is_not_shown(scheme: str, key: Any, problem: str) -> None:
    keys = signatures.keys_of({"webhookSecrets": [OTHER_KEY, key, KEY]}, scheme)
    assert keys.usable == signatures.keys_of({"webhookSecrets": [OTHER_KEY, KEY]}, scheme).usable
    assert len(keys.usable) == 2
    assert keys.problem == f"Key 2 of webhookSecrets {problem}."


def test_four_letters_are_a_standard_key_for_they_are_base64() -> None:
    assert signatures.keys_of({"webhookSecrets": ["whsec_hush"]}, "standard") == ([base64.b64decode("hush")], None)
