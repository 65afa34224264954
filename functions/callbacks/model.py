"""What a callback is and which rules it has to keep. Knows neither AWS nor the environment.

The fields and their meaning are those of the bank app gateway's `POST /bankapp/callback`.
"""

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Context, Decimal, InvalidOperation
from typing import Any

from callbacks import times
from callbacks.errors import InvalidCallback

MAX_BODY_BYTES = 32 * 1024
MAX_ID_CHARACTERS = 128
MAX_MESSAGE_CHARACTERS = 1024

# DynamoDB returns numbers written out, without an exponent, and boto3 reads no more than 38 digits of them.
MAX_AMOUNT_DIGITS = 38
AMOUNT_EXPONENTS = range(-30, 38)
AMOUNT_RULE = "must be 0, or at least 1E-30 and below 1E+38, with at most 38 significant digits"

# Stands for bytes that are not UTF-8, whichever they were: two ids that differ in them become the same.
REPLACEMENT_CHARACTER = "\ufffd"

# What the API passes on beside the headers of a signature.
PLAIN_HEADERS = {"content-type", "user-agent"}

FIELDS = ("orderId", "paymentId", "userId", "success", "amount", "message")

JSON_TYPES = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


@dataclass(frozen=True, slots=True)
class Callback:
    """One callback of the gateway, checked.

    `amount` is in the currency's main unit (baht) and exact; a zero is 0, however it is written. `extra` is a JSON
    object, as text, of the fields that we do not know; any number in it but a plain integer stands as text, so that no
    digit is lost.
    """

    order_id: str
    payment_id: str
    user_id: str
    success: bool
    amount: Decimal | None
    message: str | None
    extra: str


def parse(body: object) -> Callback:
    """Return the callback that `body`, the request's text as it was received, describes.

    Raises InvalidCallback; its message lists every field that is wrong as `field: what is wrong`.
    """
    document = _read_json(body)
    problems: list[str] = []

    def check(field: str, problem: str | None) -> Any:
        if problem:
            problems.append(f"{field}: {problem}")
        return document.get(field)

    callback = Callback(
        order_id=check("orderId", _id_problem(document, "orderId")),
        payment_id=check("paymentId", _id_problem(document, "paymentId")),
        user_id=check("userId", _id_problem(document, "userId")),
        success=check("success", _success_problem(document)),
        amount=_plain_zero(check("amount", _amount_problem(document.get("amount")))),
        message=check("message", _message_problem(document.get("message"))),
        extra=_to_text({field: value for field, value in document.items() if field not in FIELDS}),
    )
    if problems:
        raise InvalidCallback("; ".join(problems))
    return callback


def find_ids(body: object) -> tuple[str | None, str | None]:
    """Return `(orderId, paymentId)` as far as they can be read from a body that need not be valid, nor even JSON."""
    text = body if isinstance(body, str) else json.dumps(body)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    members = document if isinstance(document, dict) else _find_members(text)
    return _usable_id(members.get("orderId")), _usable_id(members.get("paymentId"))


def canonical_amount(amount: str | None) -> str | None:
    """Return the one text that all spellings of an amount share: 1.50, 1.5 and 15e-1 are the same money."""
    return None if amount is None else str(Decimal(amount).copy_abs().normalize(Context(prec=MAX_AMOUNT_DIGITS)))


def request_id(delivery: Any, fallback: str) -> str:
    """Return the id of the request that brought the delivery; where it has no usable one of its own, `fallback`."""
    own = delivery.get("requestId") if isinstance(delivery, dict) else None
    return own if isinstance(own, str) and 0 < len(own) <= MAX_ID_CHARACTERS and own.isprintable() else fallback


def signature_headers(delivery: dict[str, Any]) -> str | None:
    """Return the headers by which a delivery proves where it comes from, as a JSON object, or None without any."""
    headers = delivery.get("headers")
    if not isinstance(headers, dict):
        return None
    proof = {name: value for name, value in headers.items() if name not in PLAIN_HEADERS}
    return json.dumps(proof) if proof else None


def timestamp(received_at: object, fallback: str) -> str:
    """Return the time in UTC as ISO 8601 text of fixed width, so that text sorts as time does.

    `received_at` is in milliseconds since 1970 (API Gateway's requestTimeEpoch); where it is not a number of this
    calendar, `fallback`, ISO 8601 text with its offset, is taken.
    """
    return times.iso(_moment(received_at) or datetime.fromisoformat(fallback))


def received_at(delivery: Any, fallback: str) -> str:
    """Return the time of receipt of a delivery of any shape, as `timestamp` does."""
    return timestamp(delivery.get("receivedAt") if isinstance(delivery, dict) else None, fallback)


def _moment(milliseconds: object) -> datetime | None:
    if not isinstance(milliseconds, int | float) or isinstance(milliseconds, bool):
        return None
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    return None


def _read_json(body: object) -> dict[str, Any]:
    if not isinstance(body, str):
        raise InvalidCallback(f"body: must be the request's body as a string, not {_type_name(body)}")
    if not body.strip():
        raise InvalidCallback("body: is empty")
    if body.startswith("\ufeff"):
        raise InvalidCallback("body: starts with a byte order mark")
    if len(body.encode("utf-8", "surrogatepass")) > MAX_BODY_BYTES:
        raise InvalidCallback(f"body: is larger than {MAX_BODY_BYTES} bytes")
    try:
        document = json.loads(
            body, parse_float=_number, parse_int=_number, parse_constant=Decimal, object_pairs_hook=_members
        )
    except json.JSONDecodeError as error:
        raise InvalidCallback(f"body: is not JSON ({error.msg}, line {error.lineno} column {error.colno})") from None
    except RecursionError:
        raise InvalidCallback("body: is nested too deeply") from None
    if not isinstance(document, dict):
        raise InvalidCallback(f"body: must be a JSON object, not {_type_name(document)}")
    try:
        _to_text(document).encode()
    except UnicodeEncodeError:
        raise InvalidCallback("body: holds half of a surrogate pair, which is not a character") from None
    except RecursionError:
        raise InvalidCallback("body: is nested too deeply") from None
    return document


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise InvalidCallback("body: holds a number that is out of every range") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for field, value in pairs:
        if field in members:
            raise InvalidCallback(f"{_shown(field)}: is there twice")
        if not _is_finite(value):
            raise InvalidCallback(f"{_shown(field)}: must be a finite number")
        members[field] = value
    return members


def _is_finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_finite(item) for item in value)
    return not isinstance(value, Decimal) or value.is_finite()


def _id_problem(document: dict[str, Any], field: str) -> str | None:
    if field not in document:
        return "is missing"
    value = document[field]
    if not isinstance(value, str):
        return f"must be a string, not {_type_name(value)}"
    if not value.strip():
        return "must not be empty"
    if len(value) > MAX_ID_CHARACTERS:
        return f"is longer than {MAX_ID_CHARACTERS} characters"
    if not value.isprintable():
        return "holds a character that cannot be printed"
    return "holds a character that was broken on its way" if REPLACEMENT_CHARACTER in value else None


def _success_problem(document: dict[str, Any]) -> str | None:
    if "success" not in document:
        return "is missing"
    if not isinstance(document["success"], bool):
        return f"must be true or false, not {_type_name(document['success'])}"
    return None


def _amount_problem(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, Decimal):
        return f"must be a number, not {_type_name(value)}"
    if value < 0:
        return "must not be negative"
    if value and (len(value.as_tuple().digits) > MAX_AMOUNT_DIGITS or value.adjusted() not in AMOUNT_EXPONENTS):
        return AMOUNT_RULE
    return None


def _plain_zero(amount: Decimal | None) -> Decimal | None:
    """Return the amount; a zero as 0, for boto3 reads no 0e400."""
    return Decimal(0) if amount == 0 else amount


def _message_problem(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        return f"must be a string, not {_type_name(value)}"
    if len(value) > MAX_MESSAGE_CHARACTERS:
        return f"is longer than {MAX_MESSAGE_CHARACTERS} characters"
    return None


def _find_members(text: str) -> dict[str, Any]:
    """Return the ids that stand in a text which is not JSON as a whole, such as a body that breaks off."""
    members: dict[str, Any] = {}
    for field, value in re.findall(r'"(orderId|paymentId)"\s*:\s*("(?:[^"\\]|\\.)*"|-?\d+(?=\s*[,}]))', text):
        with suppress(ValueError):
            members.setdefault(field, json.loads(value))
    return members


def _usable_id(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value)
    return text if 0 < len(text) <= MAX_ID_CHARACTERS and text.isprintable() else None


def _to_text(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, default=_exact)


def _exact(value: Decimal) -> int | str:
    is_short_integer = value.as_tuple().exponent == 0 and value.adjusted() < MAX_AMOUNT_DIGITS
    return int(value) if is_short_integer else str(value)


def _type_name(value: object) -> str:
    return JSON_TYPES.get(type(value), "a number")


def _shown(field: str) -> str:
    return field if len(field) <= MAX_ID_CHARACTERS and field.isprintable() else "a field"
