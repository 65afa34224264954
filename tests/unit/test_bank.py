import base64
import json
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal

import pytest

from callbacks import bank
from callbacks.bank import HttpBank, Inquiry
from callbacks.errors import ConfigurationError, ServiceUnavailable
from tests.unit.kit import Json, Later, Service, Within

TOKEN = {"access_token": "token-of-the-bank", "token_type": "Bearer", "expires_in": 3600}
PAID = {"status": "PAID", "amount": "2339.00"}
CLIENT_ID, CLIENT_SECRET = "payment3", "hush:hush"
ORDER_ID, PAYMENT_ID = "482500007436", "pay_bankapp_123"


@pytest.fixture
def playing(service: Service) -> Service:
    """A service that plays a bank and answers PAID."""
    service.answers_at(bank.TOKEN_PATH, TOKEN)
    service.answers_at(bank.INQUIRY_PATH, PAID)
    service.answers(404)
    return service


@pytest.fixture
def asked(playing: Service) -> HttpBank:
    return HttpBank(playing.url, CLIENT_ID, CLIENT_SECRET)


def paths(service: Service) -> list[str]:
    return [request.path for request in service.requests]


def inquire(asked: HttpBank) -> Inquiry:
    return asked.inquire(ORDER_ID, PAYMENT_ID)


def unavailable(asked: HttpBank) -> str:
    """Return the message that reports the bank's failure; neither it nor its trace shows a credential."""
    with pytest.raises(ServiceUnavailable) as error:
        inquire(asked)
    shown = str(error.value) + "".join(traceback.format_exception(error.value))
    for private in (CLIENT_SECRET, "token-of-the-bank", base64.b64encode(b"payment3:hush:hush").decode()):
        assert private not in shown
    return str(error.value)


# The questions


def test_the_bank_is_asked_for_a_token_and_then_for_the_payment(asked: HttpBank, playing: Service) -> None:
    assert inquire(asked) == Inquiry(is_paid=True, amount=Decimal("2339.00"))
    token, inquiry = playing.requests
    assert token.path == "/oauth/token"
    assert token.headers["authorization"] == "Basic " + base64.b64encode(b"payment3:hush:hush").decode()
    assert token.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert token.body == b"grant_type=client_credentials"
    assert inquiry.path == "/payments/inquiry"
    assert inquiry.headers["Authorization"] == "Bearer token-of-the-bank"
    assert inquiry.headers["Content-Type"] == "application/json"
    assert json.loads(inquiry.body) == {"orderId": ORDER_ID, "paymentId": PAYMENT_ID}


def test_any_ids_reach_the_bank_unchanged(asked: HttpBank, playing: Service) -> None:
    asked.inquire('ชำระ "1"', "a\\b/c🎉")
    assert json.loads(playing.requests[-1].body) == {"orderId": 'ชำระ "1"', "paymentId": "a\\b/c🎉"}


@pytest.mark.parametrize("suffix", ["", "/", "//"])
def test_a_slash_at_the_end_of_the_url_makes_no_difference(playing: Service, suffix: str) -> None:
    assert inquire(HttpBank(playing.url + suffix, CLIENT_ID, CLIENT_SECRET)).is_paid
    assert paths(playing) == ["/oauth/token", "/payments/inquiry"]


# The token


@pytest.mark.parametrize(("seconds", "tokens"), [(0, 1), (3560, 1), (3571, 2), (4000, 2)])
def test_a_token_is_used_until_shortly_before_it_expires(
    asked: HttpBank, playing: Service, later: Later, seconds: float, tokens: int
) -> None:
    inquire(asked)
    later(seconds)
    inquire(asked)
    assert paths(playing).count("/oauth/token") == tokens
    assert paths(playing).count("/payments/inquiry") == 2


@pytest.mark.parametrize("seconds", [0, 30, -1, 0.5])
def test_a_token_that_expires_at_once_is_used_once(asked: HttpBank, playing: Service, seconds: float) -> None:
    playing.answers_at(bank.TOKEN_PATH, {**TOKEN, "expires_in": seconds})
    inquire(asked)
    inquire(asked)
    assert paths(playing) == ["/oauth/token", "/payments/inquiry"] * 2


def test_a_token_that_the_bank_rejects_is_forgotten(asked: HttpBank, playing: Service) -> None:
    inquire(asked)
    playing.answers_at(bank.INQUIRY_PATH, {}, 401)
    assert unavailable(asked) == "The bank answered 401"
    playing.answers_at(bank.TOKEN_PATH, {**TOKEN, "access_token": "a newer token"})
    playing.answers_at(bank.INQUIRY_PATH, PAID)
    assert inquire(asked).is_paid
    assert paths(playing)[-2:] == ["/oauth/token", "/payments/inquiry"]
    assert playing.requests[-1].headers["Authorization"] == "Bearer a newer token"


@pytest.mark.parametrize("status", [400, 403, 500])
def test_another_failure_keeps_the_token(asked: HttpBank, playing: Service, status: int) -> None:
    playing.answers_at(bank.INQUIRY_PATH, {}, status)
    assert unavailable(asked) == f"The bank answered {status}"
    playing.answers_at(bank.INQUIRY_PATH, PAID)
    assert inquire(asked).is_paid
    assert paths(playing) == ["/oauth/token", "/payments/inquiry", "/payments/inquiry"]


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"access_token": "token-of-the-bank"},
        {"expires_in": 3600},
        {**TOKEN, "expires_in": None},
        {**TOKEN, "expires_in": "3600"},
        {**TOKEN, "expires_in": True},
        {**TOKEN, "expires_in": float("nan")},
        {**TOKEN, "access_token": None},
        {**TOKEN, "access_token": 5},
    ],
    ids=str,
)
def test_a_token_needs_a_text_and_an_expiry(asked: HttpBank, playing: Service, answer: object) -> None:
    playing.answers_at(bank.TOKEN_PATH, answer)
    assert unavailable(asked) == "The bank returned no token"
    assert paths(playing) == ["/oauth/token"]


@pytest.mark.parametrize("tail", ["\r\nX-Other: 1", "\x00", "ชำระ", "\ud800", "é"], ids=ascii)
def test_a_token_that_no_header_can_hold_is_not_shown(asked: HttpBank, playing: Service, tail: str) -> None:
    playing.answers_at(bank.TOKEN_PATH, {**TOKEN, "access_token": f"token-of-the-bank{tail}"})
    assert unavailable(asked) == "The bank returned an unprintable token"


# The answers


@pytest.mark.parametrize("status", ["DECLINED", "PENDING", "paid", "PAID ", ""])
def test_any_other_status_means_that_the_payment_was_not_made(asked: HttpBank, playing: Service, status: str) -> None:
    playing.answers_at(bank.INQUIRY_PATH, {"status": status})
    assert inquire(asked) == Inquiry(is_paid=False, amount=None)


@pytest.mark.parametrize("status", [None, True, 1, ["PAID"]], ids=str)
def test_an_answer_without_a_status_is_service_unavailable(asked: HttpBank, playing: Service, status: object) -> None:
    playing.answers_at(bank.INQUIRY_PATH, {"status": status, "amount": "2339.00"})
    assert unavailable(asked) == "The bank's answer has no status"


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("2339", "2339"),
        ("2339.00", "2339"),
        ('"2339.00"', "2339"),
        ("0.30000000000000004", "0.30000000000000004"),
        ("0.1", "0.1"),
        ("90071992547409.93", "90071992547409.93"),
        ("12345678901234567890123456789012345678", "12345678901234567890123456789012345678"),
        ("1.5e1", "15"),
        ('"15e-1"', "1.5"),
        ("-1", "-1"),
    ],
)
def test_an_amount_is_exact_as_a_number_and_as_text(asked: HttpBank, playing: Service, text: str, amount: str) -> None:
    playing.answers_at(bank.INQUIRY_PATH, f'{{"status": "PAID", "amount": {text}}}'.encode())
    assert inquire(asked) == Inquiry(is_paid=True, amount=Decimal(amount))


@pytest.mark.parametrize("answer", [{"status": "PAID"}, {"status": "PAID", "amount": None}], ids=str)
def test_an_amount_may_be_missing(asked: HttpBank, playing: Service, answer: object) -> None:
    playing.answers_at(bank.INQUIRY_PATH, answer)
    assert inquire(asked) == Inquiry(is_paid=True, amount=None)


@pytest.mark.parametrize(
    "text",
    [
        "true",
        '""',
        '"abc"',
        '"2,339.00"',
        "[0, [1], 0]",
        "{}",
        "NaN",
        '"sNaN"',
        '"-Infinity"',
    ],
)
def test_an_invalid_amount_is_service_unavailable(asked: HttpBank, playing: Service, text: str) -> None:
    playing.answers_at(bank.INQUIRY_PATH, f'{{"status": "PAID", "amount": {text}}}'.encode())
    assert unavailable(asked) == "The bank's answer has an invalid amount"


GARBAGE = {
    "nothing": b"",
    "a page": b"<html>token-of-the-bank</html>",
    "broken off": b'{"status": "PAID", "amo',
    "no text": b"\xff\xfe\x00",
    "an array": b'[{"status": "PAID"}]',
    "a string": b'"PAID"',
    "null": b"null",
    "nested": b"[" * 60_000,
    "out of range": b'{"status": "PAID", "amount": 1e99999999999999999999}',
    "huge": b'{"status": "PAID", "amount": "2339.00"' + b" " * bank.MAX_ANSWER_BYTES + b"}",
    "huge with its answer in front": json.dumps(PAID).encode() + b" " * bank.MAX_ANSWER_BYTES,
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
def test_an_answer_that_is_no_small_json_object_is_service_unavailable(
    asked: HttpBank, playing: Service, answer: bytes
) -> None:
    playing.answers_at(bank.INQUIRY_PATH, answer)
    assert unavailable(asked) == "The bank's answer is not a JSON object"


def test_a_token_that_is_no_json_object_is_service_unavailable(asked: HttpBank, playing: Service) -> None:
    playing.answers_at(bank.TOKEN_PATH, GARBAGE["a page"])
    assert unavailable(asked) == "The bank's answer is not a JSON object"
    assert paths(playing) == [bank.TOKEN_PATH]


def test_an_answer_may_be_as_large_as_the_limit(asked: HttpBank, playing: Service) -> None:
    playing.answers_at(bank.INQUIRY_PATH, json.dumps(PAID).encode().ljust(bank.MAX_ANSWER_BYTES))
    assert inquire(asked).is_paid


@pytest.mark.parametrize(
    ("path", "status"),
    [(bank.TOKEN_PATH, status) for status in (302, 401, 500)]
    + [(bank.INQUIRY_PATH, status) for status in (201, 204, 301, 302, 307, 308, 400, 401, 403, 404, 429, 500, 503)],
)
def test_any_other_http_status_is_neither_retried_nor_followed_elsewhere(
    asked: HttpBank, playing: Service, path: str, status: int
) -> None:
    playing.answers_at("/elsewhere", PAID)
    body = b"" if status == 204 else b'{"status": "PAID", "error": "token-of-the-bank"}'
    playing.answers_at(path, body, status, **{"Location": f"{playing.url}/elsewhere", "Retry-After": "60"})
    assert unavailable(asked) == f"The bank answered {status}"
    assert paths(playing).count(path) == 1
    assert "/elsewhere" not in paths(playing)


# Time


def test_a_bank_that_does_not_answer_is_abandoned_in_time(asked: HttpBank, playing: Service, within: Within) -> None:
    playing.hangs()
    with within(1.6):
        assert unavailable(asked) == "The bank cannot be reached: ReadTimeoutError"


def test_a_bank_that_does_not_accept_a_connection_is_abandoned_in_time(
    deaf: str, monkeypatch: pytest.MonkeyPatch, within: Within
) -> None:
    monkeypatch.setattr(bank, "CALL_SECONDS", 0.2)
    with within(0.7):
        assert (
            unavailable(HttpBank(deaf, CLIENT_ID, CLIENT_SECRET)) == "The bank cannot be reached: ConnectTimeoutError"
        )


def test_a_refused_connection_is_service_unavailable(nobody: str) -> None:
    asked = HttpBank(nobody, CLIENT_ID, CLIENT_SECRET)
    assert unavailable(asked) == "The bank cannot be reached: NewConnectionError"


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def trickling() -> Iterator[Callable[[bytes], str]]:
    """Start a bank that sends this text at once, then one byte at a time for 5 s; return its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()
    threads: list[threading.Thread] = []

    def serve(start: bytes) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(start)
            with suppress(OSError):
                for _ in range(100):
                    if over.wait(0.05):
                        return
                    connection.sendall(b"1")

    def start(text: bytes) -> str:
        threads.append(threading.Thread(target=serve, args=(text,)))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    over.set()
    for thread in threads:
        thread.join()
    listener.close()


def test_an_answer_that_trickles_in_is_abandoned_in_time(trickling: Callable[[bytes], str], within: Within) -> None:
    asked = HttpBank(trickling(HEAD), CLIENT_ID, CLIENT_SECRET)
    with within(2.6):
        assert unavailable(asked) == "The bank takes too long to answer"


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX: ", CHUNKED], ids=["line", "header", "chunk"])
def test_any_part_of_an_answer_may_trickle_in(
    trickling: Callable[[bytes], str], start: bytes, monkeypatch: pytest.MonkeyPatch, within: Within
) -> None:
    # Longer than the pause between two bytes, so that only the limit of the whole inquiry can end it.
    monkeypatch.setattr(bank, "INQUIRY_SECONDS", 0.3)
    asked = HttpBank(trickling(start), CLIENT_ID, CLIENT_SECRET)
    with within(0.9):
        assert unavailable(asked) == "The bank takes too long to answer"


def test_a_bank_that_took_too_long_is_asked_again_the_next_time(
    asked: HttpBank, playing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    playing.hangs()
    with monkeypatch.context() as patch:
        patch.setattr(bank, "INQUIRY_SECONDS", 0.1)
        assert unavailable(asked) == "The bank takes too long to answer"
    playing.released.set()
    assert inquire(asked).is_paid


@pytest.mark.parametrize("text", [b"", b"garbage\r\n\r\n", HEAD + b"{}"], ids=["nothing", "no HTTP", "too little"])
def test_a_connection_that_breaks_off_is_service_unavailable(text: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(text)

        thread = threading.Thread(target=serve)
        thread.start()
        asked = HttpBank(f"http://127.0.0.1:{listener.getsockname()[1]}", CLIENT_ID, CLIENT_SECRET)
        assert unavailable(asked).startswith("The bank cannot be reached: ")
        thread.join()


# The URL


@pytest.mark.parametrize(
    "url",
    [
        "https://bank.example",
        "HTTPS://bank.example:8443/api",
        "http://127.0.0.1:8080",
        "http://[::1]:8080/",
        "http://127.9.9.9",
    ],
)
def test_credentials_are_sent_over_https_or_within_this_machine(url: str) -> None:
    HttpBank(url, CLIENT_ID, CLIENT_SECRET)


@pytest.mark.parametrize(
    "url",
    [
        "http://bank.example",
        "http://10.0.0.1",
        "http://0.0.0.0",
        "http://127.0.0.1.example",
        "http://127.0.0.1@bank.example",
        "http://localhost",
        "ftp://127.0.0.1",
        "//bank.example",
        "bank.example",
        "https:///path",
        "https://[",
        "https://exa\u2100mple",
        "",
    ],
)
def test_credentials_are_sent_nowhere_else(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^The secret's inquiry.baseUrl is not an https URL\.$"):
        HttpBank(url, CLIENT_ID, CLIENT_SECRET)


# The secret


ACCESS = {"baseUrl": "https://bank.example", "clientId": CLIENT_ID, "clientSecret": CLIENT_SECRET}


def test_the_same_access_data_returns_the_same_bank_with_its_token() -> None:
    first = bank.connect({"inquiry": ACCESS})
    assert bank.connect({"webhookSecrets": [], "inquiry": {**ACCESS, "note": "new"}}) is first


@pytest.mark.parametrize("changed", ACCESS)
def test_other_access_data_returns_another_bank(changed: str) -> None:
    other = bank.connect({"inquiry": {**ACCESS, changed: ACCESS[changed] + ".org"}})
    assert other is not bank.connect({"inquiry": ACCESS})


@pytest.mark.parametrize(
    "secret",
    [
        {},
        {"inquiry": None},
        {"inquiry": CLIENT_SECRET},
        {"inquiry": [CLIENT_SECRET]},
        *({"inquiry": {name: value for name, value in ACCESS.items() if name != missing}} for missing in ACCESS),
        {"inquiry": {**ACCESS, "baseUrl": 5}},
        {"inquiry": {**ACCESS, "baseUrl": None}},
        {"inquiry": {**ACCESS, "clientSecret": [CLIENT_SECRET]}},
        {"inquiry": {**ACCESS, "clientSecret": f"{CLIENT_SECRET} ชำระ"}},
        {"inquiry": {**ACCESS, "baseUrl": "http://bank.example"}},
        {"inquiry": {**ACCESS, "baseUrl": f"https://{CLIENT_SECRET}@["}},
    ],
    ids=str,
)
def test_a_secret_without_usable_access_data_is_a_configuration_error(secret: Json) -> None:
    with pytest.raises(ConfigurationError, match="inquiry") as error:
        bank.connect(secret)
    assert CLIENT_SECRET not in "".join(traceback.format_exception(error.value))
