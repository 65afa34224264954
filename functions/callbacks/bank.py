"""Asks the bank whether a payment was made.

Request and answer are the common core of such interfaces, not a particular bank's. HttpBank is the one place to adapt
to the bank's own documentation.
"""

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from ipaddress import ip_address
from typing import Any, Protocol
from urllib.parse import urlsplit

import urllib3

from callbacks.errors import ConfigurationError, ServiceUnavailable

TOKEN_PATH = "/oauth/token"  # noqa: S105 it is a path
INQUIRY_PATH = "/payments/inquiry"

# The token's request and the inquiry together; with a read of the secret before, they fit into the function's time.
INQUIRY_SECONDS = 1.2
CALL_SECONDS = 1.1
# A token is renewed this long before it expires.
TOKEN_MARGIN_SECONDS = 30
MAX_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Inquiry:
    """The bank's answer: whether the payment was made, and its exact amount."""

    is_paid: bool
    amount: Decimal | None


class Bank(Protocol):
    """A bank that can be asked about payments."""

    def inquire(self, order_id: str, payment_id: str) -> Inquiry:
        """Return what the bank knows about a payment. Raises ServiceUnavailable if it does not answer."""


class HttpBank:
    """Asks over HTTPS, with a token obtained for a client id and secret (OAuth 2.0 client credentials).

    `POST baseUrl/payments/inquiry {"orderId", "paymentId"}` returns `{"status": "PAID", "amount": "2339.00"}`, or any
    other status if the payment was not made.
    """

    def __init__(self, base_url: str, client_id: str, client_secret: str) -> None:
        _require_https(base_url)
        self._base_url = base_url.rstrip("/")
        self._credentials = urllib3.make_headers(basic_auth=f"{client_id}:{client_secret}")
        self._http = urllib3.PoolManager(timeout=urllib3.Timeout(total=CALL_SECONDS), retries=False)
        self._token = ""
        self._token_ends_at = 0.0

    def inquire(self, order_id: str, payment_id: str) -> Inquiry:
        # In a thread: urllib3's timeout applies to each read and never ends an answer that trickles in byte by byte.
        thread = ThreadPoolExecutor(1)
        try:
            return thread.submit(self._inquire, order_id, payment_id).result(INQUIRY_SECONDS)
        except TimeoutError:
            raise ServiceUnavailable("The bank takes too long to answer") from None
        finally:
            thread.shutdown(wait=False)

    def _inquire(self, order_id: str, payment_id: str) -> Inquiry:
        if time.monotonic() >= self._token_ends_at:
            self._renew_token()
        question = json.dumps({"orderId": order_id, "paymentId": payment_id}).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        answer = self._post(INQUIRY_PATH, headers, question)
        status, amount = answer.get("status"), answer.get("amount")
        if not isinstance(status, str):
            raise ServiceUnavailable("The bank's answer has no status")
        return Inquiry(status == "PAID", _amount(amount))

    def _renew_token(self) -> None:
        headers = {**self._credentials, "Content-Type": "application/x-www-form-urlencoded"}
        answer = self._post(TOKEN_PATH, headers, b"grant_type=client_credentials")
        token, seconds = answer.get("access_token"), answer.get("expires_in")
        if not isinstance(token, str) or not isinstance(seconds, Decimal):
            raise ServiceUnavailable("The bank returned no token")
        if not (token.isascii() and token.isprintable()):
            # urllib3's error about an unsendable header would show the token.
            raise ServiceUnavailable("The bank returned an unprintable token")
        self._token, self._token_ends_at = token, time.monotonic() + float(seconds) - TOKEN_MARGIN_SECONDS

    def _post(self, path: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        try:
            with self._http.request(
                "POST", self._base_url + path, body=body, headers=headers, redirect=False, preload_content=False
            ) as response:
                data = response.read(MAX_ANSWER_BYTES + 1)
        except urllib3.exceptions.HTTPError as error:
            raise ServiceUnavailable(f"The bank cannot be reached: {type(error).__name__}") from None
        if response.status == 401:
            self._token_ends_at = 0
        if response.status != 200:
            raise ServiceUnavailable(f"The bank answered {response.status}")
        try:
            answer = json.loads(data, parse_float=Decimal, parse_int=Decimal)
        except (ValueError, ArithmeticError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or len(data) > MAX_ANSWER_BYTES:
            raise ServiceUnavailable("The bank's answer is not a JSON object")
        return answer


def connect(secret: Mapping[str, Any]) -> Bank:
    """Return the bank whose access data the secret holds; the same data returns the same bank, with its token.

    Raises ConfigurationError; the message does not show the secret.
    """
    access: Any = secret.get("inquiry")
    try:
        return _http_bank(access["baseUrl"], access["clientId"], access["clientSecret"])
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ConfigurationError("The secret needs inquiry with baseUrl, clientId and clientSecret.") from None


_http_bank = cache(HttpBank)


def _require_https(base_url: str) -> None:
    """Refuse to send credentials unencrypted, except to this machine. Raises ConfigurationError."""
    try:
        url = urlsplit(base_url)
        is_safe = url.scheme == "https" and bool(url.hostname)
        is_safe = is_safe or (url.scheme == "http" and ip_address(url.hostname or "").is_loopback)
    except ValueError:
        is_safe = False
    if not is_safe:
        raise ConfigurationError("The secret's inquiry.baseUrl is not an https URL.")


def _amount(value: Any) -> Decimal | None:
    if value is None:
        return None
    try:
        amount = Decimal(value) if isinstance(value, str | Decimal) else None
    except ArithmeticError:
        amount = None
    if amount is None or not amount.is_finite():
        raise ServiceUnavailable("The bank's answer has an invalid amount")
    return amount
