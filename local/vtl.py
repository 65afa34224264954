"""Renders API Gateway's mapping templates: Velocity by airspeed, plus API Gateway's `$input` and `$util`.

Supports what this project's templates use; anything else raises an error.
"""

import json
from collections.abc import Mapping
from typing import Any

import airspeed
from jsonpath_ng.parser import parse

# Methods of java.lang.String that airspeed lacks, or counts in code points while Java counts in UTF-16 units.
airspeed.operators.__additional_methods__[str].update(
    {
        "length": lambda text: len(_utf16(text)) // 2,
        "substring": lambda text, start, end: _utf16(text)[2 * start : 2 * end].decode("utf-16-be", "surrogatepass"),
        "toLowerCase": str.lower,
    }
)

ESCAPES = {
    '"': '\\"',
    "'": "\\'",
    "\\": "\\\\",
    "/": "\\/",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}


class Input:
    """`$input`: the body as text, and the headers."""

    def __init__(self, body: str, headers: Mapping[str, str]) -> None:
        # API Gateway replaces a missing body with an empty object.
        self.body = body or "{}"
        self._headers = dict(headers)

    def params(self) -> dict[str, dict[str, str]]:
        return {"header": self._headers, "path": {}, "querystring": {}}

    def path(self, expression: str) -> Any:
        try:
            document = json.loads(self.body)
        except ValueError:
            return None
        found = parse(expression).find(document)
        return found[0].value if found else None


class Util:
    """`$util`."""

    @staticmethod
    def escapeJavaScript(text: str) -> str:
        """Escape as Apache's StringEscapeUtils does, which includes the apostrophe, the slash and all but ASCII."""
        return "".join(ESCAPES.get(character) or _escaped(character) for character in text)

    @staticmethod
    def parseJson(text: str) -> Any:
        return json.loads(text)


def render(template: str, context: dict[str, Any], body: str = "", headers: Mapping[str, str] | None = None) -> str:
    """Render a template; what it assigns to `$context.responseOverride` ends up in `context`."""
    names = {"input": Input(body, headers or {}), "util": Util(), "context": context}
    return str(airspeed.Template(template).merge(names))


def _escaped(character: str) -> str:
    if " " <= character <= "\x7f":
        return character
    units = _utf16(character)
    return "".join(f"\\u{units[i]:02X}{units[i + 1]:02X}" for i in range(0, len(units), 2))


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-be", "surrogatepass")
