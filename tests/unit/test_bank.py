import base64
import json
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from callbacks import bank
from callbacks.bank import HttpBank, Inquiry
from callbacks.errors import ConfigurationError, ServiceUnavailable

TOKEN = {"access_token": "token-of-the-bank", "token_type": "Bearer", "expires_in": 3600}
PAID = {"status": "PAID", "amount": "2339.00"}
CLIENT_ID, CLIENT_SECRET = "payment3", "hush:hush"
ORDER_ID, PAYMENT_ID = "482500007436", "pay_bankapp_123"


@pytest.fixture
def playing(service: Any) -> Any:
    """A service that plays a bank which says PAID."""
    service.answers_at(bank.TOKEN_PATH, TOKEN)
    service.answers_at(bank.INQUIRY_PATH, PAID)
    service.answers(404)
    return service


@pytest.fixture
def asked(playing: Any) -> HttpBank:
    return HttpBank(playing.url, CLIENT_ID, CLIENT_SECRET)


def paths(service: Any) -> list[str]:
    return [request.path for request in service.requests]


def inquire(asked: HttpBank) -> Inquiry:
    return asked.inquire(ORDER_ID, PAYMENT_ID)


def unavailable(asked: HttpBank) -> str:
    """The message with which the bank's failure is reported; it and its trace show no credentials."""
    with pytest.raises(ServiceUnavailable) as error:
        inquire(asked)
    shown = str(error.value) + "".join(traceback.format_exception(error.value))
    for private in (CLIENT_SECRET, "token-of-the-bank", base64.b64encode(b"payment3:hush:hush").decode()):
        assert private not in shown
    return str(error.value)


# What is asked


def test_the_bank_is_asked_for_a_token_and_then_for_the_payment(asked: HttpBank, playing: Any) -> None:
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


def test_ids_of_all_kinds_reach_the_bank_as_they_are(asked: HttpBank, playing: Any) -> None:
    asked.inquire('ชำระ "1"', "a\\b/c🎉")
    assert json.loads(playing.requests[-1].body) == {"orderId": 'ชำระ "1"', "paymentId": "a\\b/c🎉"}


@pytest.mark.parametrize("suffix", ["", "/", "//"])
def test_a_slash_at_the_end_of_the_url_makes_no_difference(playing: Any, suffix: str) -> None:
    assert inquire(HttpBank(playing.url + suffix, CLIENT_ID, CLIENT_SECRET)).is_paid
    assert paths(playing) == ["/oauth/token", "/payments/inquiry"]


# The token


@pytest.mark.parametrize(("seconds", "tokens"), [(0, 1), (3560, 1), (3571, 2), (4000, 2)])
def test_a_token_is_used_until_shortly_before_its_end(
    asked: HttpBank, playing: Any, later: Callable[[float], None], seconds: float, tokens: int
) -> None:
    inquire(asked)
    later(seconds)
    inquire(asked)
    assert paths(playing).count("/oauth/token") == tokens
    assert paths(playing).count("/payments/inquiry") == 2


@pytest.mark.parametrize("seconds", [0, 30, -1, 0.5])
def test_a_token_that_ends_at_once_is_used_once(asked: HttpBank, playing: Any, seconds: float) -> None:
    playing.answers_at(bank.TOKEN_PATH, {**TOKEN, "expires_in": seconds})
    inquire(asked)
    inquire(asked)
    assert paths(playing) == ["/oauth/token", "/payments/inquiry"] * 2


def test_a_token_that_the_bank_does_not_take_any_more_is_forgotten(asked: HttpBank, playing: Any) -> None:
    inquire(asked)
    playing.answers_at(bank.INQUIRY_PATH, {}, 401)
    assert unavailable(asked) == "The bank answered 401"
    playing.answers_at(bank.TOKEN_PATH, {**TOKEN, "access_token": "a newer token"})
    playing.answers_at(bank.INQUIRY_PATH, PAID)
    assert inquire(asked).is_paid
    assert paths(playing)[-2:] == ["/oauth/token", "/payments/inquiry"]
    assert playing.requests[-1].headers["Authorization"] == "Bearer a newer token"


@pytest.mark.parametrize("status", [400, 403, 404, 500, 503])
def test_another_failure_does_not_cost_the_token(asked: HttpBank, playing: Any, status: int) -> None:
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
def test_an_answer_without_a_token_and_its_end_is_none(asked: HttpBank, playing: Any, answer: object) -> None:
    playing.answers_at(bank.TOKEN_PATH, answer)
    assert unavailable(asked) == "The bank returned no token"
    assert paths(playing) == ["/oauth/token"]


@pytest.mark.parametrize("tail", ["\n", "\r\nX-Other: 1", "\x00", "ชำระ", "\ud800", "é"], ids=ascii)
def test_a_token_that_no_header_can_hold_is_not_shown_by_the_error_that_says_so(
    asked: HttpBank, playing: Any, tail: str
) -> None:
    playing.answers_at(bank.TOKEN_PATH, {**TOKEN, "access_token": f"token-of-the-bank{tail}"})
    assert unavailable(asked) == "The bank returned an unprintable token"


# What is answered


@pytest.mark.parametrize("status", ["DECLINED", "PENDING", "paid", "PAID ", ""])
def test_any_other_status_is_a_payment_that_was_not_made(asked: HttpBank, playing: Any, status: str) -> None:
    playing.answers_at(bank.INQUIRY_PATH, {"status": status})
    assert inquire(asked) == Inquiry(is_paid=False, amount=None)


@pytest.mark.parametrize("status", [None, True, 1, ["PAID"]], ids=str)
def test_an_answer_without_a_status_says_nothing(asked: HttpBank, playing: Any, status: object) -> None:
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
def test_an_amount_is_exact_whether_it_is_a_number_or_text(
    asked: HttpBank, playing: Any, text: str, amount: str
) -> None:
    playing.answers_at(bank.INQUIRY_PATH, f'{{"status": "PAID", "amount": {text}}}'.encode())
    assert inquire(asked) == Inquiry(is_paid=True, amount=Decimal(amount))


@pytest.mark.parametrize("answer", [{"status": "PAID"}, {"status": "PAID", "amount": None}], ids=str)
def test_an_amount_that_the_bank_leaves_out_is_none(asked: HttpBank, playing: Any, answer: object) -> None:
    playing.answers_at(bank.INQUIRY_PATH, answer)
    assert inquire(asked) == Inquiry(is_paid=True, amount=None)


@pytest.mark.parametrize(
    "text",
    [
        "true",
        "false",
        '""',
        '"abc"',
        '"2,339.00"',
        "[]",
        "[0, [1], 0]",
        "{}",
        "NaN",
        "Infinity",
        '"NaN"',
        '"sNaN"',
        '"-Infinity"',
    ],
)
def test_an_amount_that_is_none_is_no_answer(asked: HttpBank, playing: Any, text: str) -> None:
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


@pytest.mark.parametrize("path", [bank.TOKEN_PATH, bank.INQUIRY_PATH])
@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
def test_an_answer_that_is_no_object_of_reasonable_size_is_none(
    asked: HttpBank, playing: Any, path: str, answer: bytes
) -> None:
    playing.answers_at(path, answer)
    assert unavailable(asked) == "The bank's answer is not a JSON object"
    assert paths(playing)[-1] == path


def test_an_answer_may_be_as_large_as_the_limit(asked: HttpBank, playing: Any) -> None:
    playing.answers_at(bank.INQUIRY_PATH, json.dumps(PAID).encode().ljust(bank.MAX_ANSWER_BYTES))
    assert inquire(asked).is_paid


@pytest.mark.parametrize("path", [bank.TOKEN_PATH, bank.INQUIRY_PATH])
@pytest.mark.parametrize("status", [201, 204, 301, 302, 307, 308, 400, 401, 403, 404, 429, 500, 502, 503])
def test_any_other_status_of_http_is_no_answer_and_is_asked_once_and_not_elsewhere(
    asked: HttpBank, playing: Any, path: str, status: int
) -> None:
    playing.answers_at("/elsewhere", PAID)
    body = b"" if status == 204 else b'{"status": "PAID", "error": "token-of-the-bank"}'
    playing.answers_at(path, body, status, **{"Location": f"{playing.url}/elsewhere", "Retry-After": "60"})
    assert unavailable(asked) == f"The bank answered {status}"
    assert paths(playing).count(path) == 1
    assert "/elsewhere" not in paths(playing)


# Time


def test_a_bank_that_does_not_answer_is_given_up_within_the_steps_time(
    asked: HttpBank, playing: Any, within: Any
) -> None:
    playing.hangs()
    with within(1.6):
        assert unavailable(asked) == "The bank cannot be reached: ReadTimeoutError"


def test_a_bank_that_cannot_be_reached_is_given_up_within_the_steps_time(deaf: str, within: Any) -> None:
    with within(1.6):
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
    """The URL of a bank that says this at once, and from then on a byte at a time without end."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()
    threads: list[threading.Thread] = []

    def serve(start: bytes) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(start)
            while not over.wait(0.05):
                try:
                    connection.sendall(b"1")
                except OSError:
                    return

    def start(text: bytes) -> str:
        threads.append(threading.Thread(target=serve, args=(text,)))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    over.set()
    for thread in threads:
        thread.join()
    listener.close()


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200 OK\r\nX: ", HEAD, CHUNKED], ids=["line", "header", "body", "chunk"]
)
def test_a_bank_whose_answer_comes_byte_by_byte_is_given_up_within_the_steps_time(
    trickling: Callable[[bytes], str], start: bytes, within: Any
) -> None:
    asked = HttpBank(trickling(start), CLIENT_ID, CLIENT_SECRET)
    with within(2.6):
        assert unavailable(asked) == "The bank takes too long to answer"


def test_a_bank_that_took_too_long_is_asked_again_the_next_time(
    asked: HttpBank, playing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    playing.hangs()
    monkeypatch.setattr(bank, "INQUIRY_SECONDS", 0.2)
    assert unavailable(asked) == "The bank takes too long to answer"
    playing.released.set()
    monkeypatch.undo()
    time.sleep(0.2)
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
def test_credentials_go_over_https_or_stay_on_this_machine(url: str) -> None:
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
        "https://",
        "https:///path",
        "https://[",
        "https://exa\u2100mple",
        "",
    ],
)
def test_credentials_go_nowhere_else(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^The secret's inquiry.baseUrl is not an https URL\.$"):
        HttpBank(url, CLIENT_ID, CLIENT_SECRET)
