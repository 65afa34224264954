"""The bank, as far as we ask it: was this payment made?

What is asked and answered is the smallest common form of such interfaces, not a certain bank's; HttpBank is the one
place to fit to the bank's own documents.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import ip_address
from typing import Any, Protocol
from urllib.parse import urlsplit

import urllib3

from callbacks.errors import ConfigurationError, ServiceUnavailable

TOKEN_PATH = "/oauth/token"  # noqa: S105 it is a path
INQUIRY_PATH = "/payments/inquiry"

# Token and inquiry together fit into the step's timeout.
CALL_SECONDS = 1.1
INQUIRY_SECONDS = 2.0
# A token is not used up to its last second.
TOKEN_MARGIN_SECONDS = 30
MAX_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What the bank says of a payment: whether it was made, and its exact amount."""

    is_paid: bool
    amount: Decimal | None


class Bank(Protocol):
    """Whom we ask."""

    def inquire(self, order_id: str, payment_id: str) -> Inquiry:
        """Return what the bank knows of a payment. Raises ServiceUnavailable where it does not say."""


class HttpBank:
    """Asks over HTTPS, with a token that it gets for client id and secret (OAuth 2.0 client credentials).

    `POST baseUrl/payments/inquiry {"orderId", "paymentId"}` is answered `{"status": "PAID", "amount": "2339.00"}`, with
    any other status where the payment was not made.
    """

    def __init__(self, base_url: str, client_id: str, client_secret: str) -> None:
        _require_https(base_url)
        self._base_url = base_url.rstrip("/")
        self._credentials = urllib3.make_headers(basic_auth=f"{client_id}:{client_secret}")
        self._http = urllib3.PoolManager(timeout=urllib3.Timeout(total=CALL_SECONDS), retries=False)
        self._token = ""
        self._token_ends_at = 0.0

    def inquire(self, order_id: str, payment_id: str) -> Inquiry:
        # In a thread, because a timeout of urllib3 is per read: it never ends an answer that comes byte by byte.
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
            raise ServiceUnavailable("The bank gave no token")
        if not (token.isascii() and token.isprintable()):
            # The error of a header that cannot be sent would show it.
            raise ServiceUnavailable("The bank gave a token that cannot be sent")
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


def _require_https(base_url: str) -> None:
    """Credentials go over a wire only when it is encrypted; to this very machine there is none."""
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
        raise ServiceUnavailable("The bank's answer has an amount that is none")
    return amount
