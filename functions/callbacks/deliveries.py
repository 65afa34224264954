"""A delivery as text: as it was received, or cut, because nothing shows that the bank sent it and it is large."""

import json
import re
from hashlib import sha256
from typing import Any

MAX_BEGINNING_CHARACTERS = 1024
# Of an IPv6 address.
MAX_ADDRESS_CHARACTERS = 45
# The failure has them as attributes too, and ClaimFailure puts them back.
ELSEWHERE = {"requestId", "receivedAt"}


def as_text(delivery: Any) -> str:
    """Return a delivery as JSON text, escaped only if it contains an unpaired surrogate, which UTF-8 cannot encode."""
    text = _compact(delivery)
    return json.dumps(delivery) if re.search("[\ud800-\udfff]", text) else text


def as_short_text(delivery: Any, max_bytes: int) -> str:
    """Return a refused delivery as JSON text of at most so many bytes in UTF-8, whole if that is enough for it.

    If it is just enough, what stands ELSEWHERE is left out. Otherwise the delivery is cut: `body` is the beginning of
    the body, `bodyLength` the number of its characters, `bodySha256` the SHA-256 of its UTF-8 in hex, and there are no
    headers. The API's request template cuts a body that is too large in the same way, but has no digest.
    """
    text = as_text(delivery)
    if isinstance(delivery, dict) and len(text.encode()) > max_bytes:
        text = as_text({name: value for name, value in delivery.items() if name not in ELSEWHERE})
    length = MAX_BEGINNING_CHARACTERS
    while length and len(text.encode()) > max_bytes:
        text = _compact(_cut(delivery, length))
        length = length * 7 // 8
    return text


def is_cut(delivery: Any) -> bool:
    """Return whether only the beginning of a delivery's body is kept, so that it cannot be redriven."""
    return isinstance(delivery, dict) and "bodyLength" in delivery


def cut_to_bytes(text: str, max_bytes: int) -> str:
    """Return as much of a text as fits into so many bytes of UTF-8."""
    return text.encode("utf-8", "replace")[:max_bytes].decode("utf-8", "ignore")


def _cut(delivery: Any, length: int) -> dict[str, Any]:
    if not isinstance(delivery, dict):
        # Only whoever starts the workflow without the API can send one.
        delivery = {"body": delivery}
    body = delivery.get("body")
    text = body if isinstance(body, str) else _compact(body)
    known = {"bodyLength": delivery["bodyLength"]} if is_cut(delivery) else _measured(text)
    beginning = text[:length].encode("utf-8", "replace").decode()
    return {"body": beginning, **known, "sourceIp": str(delivery.get("sourceIp", ""))[:MAX_ADDRESS_CHARACTERS]}


def _measured(text: str) -> dict[str, Any]:
    digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return {"bodyLength": len(text), "bodySha256": digest}


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
