"""What a callback is and the rules it must follow. Knows neither AWS nor the environment.

The fields and their meaning come from the bank app gateway's `POST /bankapp/callback`.
"""

import json
import re
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Context, Decimal, InvalidOperation
from typing import Any, NamedTuple

from callbacks import times
from callbacks.errors import InvalidCallback

MAX_BODY_BYTES = 8 * 1024
MAX_ID_CHARACTERS = 128
MAX_MESSAGE_CHARACTERS = 1024

# DynamoDB returns numbers in full, without an exponent, and boto3 reads at most 38 digits of them.
MAX_AMOUNT_DIGITS = 38
AMOUNT_EXPONENTS = range(-30, 38)
AMOUNT_RULE = "must be 0, or at least 1E-30 and below 1E+38, with at most 38 significant digits"

# Stands for any bytes that are not UTF-8: two different ids could become one.
REPLACEMENT_CHARACTER = "\ufffd"

# Headers that the API passes on but that prove nothing.
PLAIN_HEADERS = {"content-type", "user-agent"}

JSON_TYPES = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}

MISSING = object()


class Callback(NamedTuple):
    """A callback that follows every rule.

    `amount` is exact, in the currency's main unit (baht); any zero is 0. `message` is cut to MAX_MESSAGE_CHARACTERS.
    `extra` is JSON text: an object of the unknown fields, in which every number but a plain integer is text, so that no
    digit is lost.
    """

    order_id: str
    payment_id: str
    user_id: str
    success: bool
    amount: Decimal | None
    message: str | None
    extra: str


def parse(body: object, length: object = None) -> Callback:
    """Return the callback in `body`, the request's text as received.

    Raises InvalidCallback; its message lists every invalid field as `field: problem`, and contains no text of the
    caller. `length` is that of find_size_problem.
    """
    if problem := find_size_problem(body, length):
        raise InvalidCallback(problem)
    document = _read_json(body)
    problems = [(field, find_problem(document.get(field, MISSING))) for field, find_problem in RULES.items()]
    found = [f"{field}: {problem}" for field, problem in [*_name_problems(document), *problems] if problem]
    if found:
        raise InvalidCallback("; ".join(found))
    return Callback(
        order_id=document["orderId"],
        payment_id=document["paymentId"],
        user_id=document["userId"],
        success=document["success"],
        amount=_plain_zero(document.get("amount")),
        message=_cut(document.get("message")),
        extra=_to_text({field: value for field, value in document.items() if field not in RULES}),
    )


def find_size_problem(body: object, length: object) -> str | None:
    """Return what is wrong with the size of a body, or None.

    `length` is a delivery's `bodyLength`: how many characters the body had before the API's request template cut it.
    """
    if isinstance(length, int | float) and not isinstance(length, bool):
        return f"body: has {length:.0f} characters, the limit is {MAX_BODY_BYTES} bytes of JSON"
    if isinstance(body, str) and len(body.encode("utf-8", "surrogatepass")) > MAX_BODY_BYTES:
        return f"body: is larger than {MAX_BODY_BYTES} bytes"
    return None


def find_ids(body: object) -> tuple[str | None, str | None]:
    """Return `(orderId, paymentId)` as far as a body reveals them; it need not be valid, nor even JSON."""
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
    """Return the id of the request that brought the delivery, or `fallback` if it has no usable one."""
    own = delivery.get("requestId") if isinstance(delivery, dict) else None
    return own if isinstance(own, str) and 0 < len(own) <= MAX_ID_CHARACTERS and own.isprintable() else fallback


def signature_headers(delivery: dict[str, Any]) -> str | None:
    """Return the headers that prove a delivery's origin, as a JSON object, or None if there are none."""
    headers = delivery.get("headers")
    if not isinstance(headers, dict):
        return None
    proof = {name: value for name, value in headers.items() if name not in PLAIN_HEADERS}
    return json.dumps(proof) if proof else None


def received_at(delivery: Any, fallback: str) -> str:
    """Return the time at which a delivery of any shape was received, as `times.iso` writes it.

    It is the delivery's `receivedAt`, in milliseconds since 1970 (API Gateway's requestTimeEpoch). If that is not a
    number within the calendar, it is `fallback`, ISO 8601 text with an offset.
    """
    milliseconds = delivery.get("receivedAt") if isinstance(delivery, dict) else None
    return times.iso(_moment(milliseconds) or datetime.fromisoformat(fallback))


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
        raise InvalidCallback("body: contains an unpaired surrogate") from None
    except RecursionError:
        raise InvalidCallback("body: is nested too deeply") from None
    return document


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise InvalidCallback("body: contains a number that is out of range") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for field, value in pairs:
        if field in members:
            raise InvalidCallback(f"{_our_name(field)}: appears more than once")
        if not _is_finite(value):
            raise InvalidCallback(f"{_our_name(field)}: must be a finite number")
        members[field] = value
    return members


def _is_finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_finite(item) for item in value)
    return not isinstance(value, Decimal) or value.is_finite()


def _id_problem(value: Any) -> str | None:
    if value is MISSING:
        return "is missing"
    if not isinstance(value, str):
        return f"must be a string, not {_type_name(value)}"
    return next((problem for problem, has_problem in ID_PROBLEMS.items() if has_problem(value)), None)


def _flag_problem(value: Any) -> str | None:
    if value is MISSING:
        return "is missing"
    return None if isinstance(value, bool) else f"must be true or false, not {_type_name(value)}"


def _amount_problem(value: Any) -> str | None:
    if value is None or value is MISSING:
        return None
    if not isinstance(value, Decimal):
        return f"must be a number, not {_type_name(value)}"
    if value < 0:
        return "must not be negative"
    if value and (len(value.as_tuple().digits) > MAX_AMOUNT_DIGITS or value.adjusted() not in AMOUNT_EXPONENTS):
        return AMOUNT_RULE
    return None


def _message_problem(value: Any) -> str | None:
    if value is None or value is MISSING or isinstance(value, str):
        return None
    return f"must be a string, not {_type_name(value)}"


# What can be wrong with an id that is a string; the first that applies is named.
ID_PROBLEMS: dict[str, Callable[[str], bool]] = {
    "must not be empty": lambda text: not text.strip(),
    "must not begin or end with a blank": lambda text: text != text.strip(),
    f"is longer than {MAX_ID_CHARACTERS} characters": lambda text: len(text) > MAX_ID_CHARACTERS,
    "contains an unprintable character": lambda text: not text.isprintable(),
    "contains U+FFFD, the mark of a broken character": lambda text: REPLACEMENT_CHARACTER in text,
    "must be in Unicode's normal form NFC": lambda text: not unicodedata.is_normalized("NFC", text),
}

# Each known field and the function that finds the problem with its value, which is MISSING if the field is.
RULES: dict[str, Callable[[Any], str | None]] = {
    "orderId": _id_problem,
    "paymentId": _id_problem,
    "userId": _id_problem,
    "success": _flag_problem,
    "amount": _amount_problem,
    "message": _message_problem,
}
# By what str.casefold makes of them: full-width letters and the Turkish dotless i stay other letters.
FIELDS_BY_FOLDED_NAME = {field.casefold(): field for field in RULES}


def _name_problems(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Return each of our fields that a reader who ignores case finds under another name, and the problem."""
    fields = (FIELDS_BY_FOLDED_NAME.get(name.casefold()) for name in document if name not in RULES)
    return [(field, "is written in another case") for field in dict.fromkeys(fields) if field]


def _cut(message: str | None) -> str | None:
    return None if message is None else message[:MAX_MESSAGE_CHARACTERS]


def _plain_zero(amount: Decimal | None) -> Decimal | None:
    """Return the amount, any zero as 0: boto3 cannot read 0e400."""
    return Decimal(0) if amount == 0 else amount


def _find_members(text: str) -> dict[str, Any]:
    """Return the ids in a text that is not JSON as a whole, such as a truncated body."""
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


def _our_name(field: str) -> str:
    """Return the name of one of our fields; any other is the caller's text, which operators must not be sent."""
    return field if field in RULES else "a field"
