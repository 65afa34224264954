"""openapi.yaml, and whether it allows a value."""

import unicodedata
from typing import Any

import jsonschema_rs
import schemathesis

from local.stack import ROOT

SCHEMA = schemathesis.openapi.from_path(ROOT / "openapi.yaml")
DOCUMENT: dict[str, Any] = SCHEMA.raw_schema
CALLBACK: dict[str, Any] = DOCUMENT["components"]["schemas"]["Callback"]
# The document's own format: no pattern can tell whether a text is in Unicode's normal form.
FORMATS = {"nfc": lambda text: unicodedata.is_normalized("NFC", text)}


def is_valid(schema: dict[str, Any], value: Any) -> bool:
    """Return whether one of the document's schemas allows a value, formats included."""
    whole = schema | {"components": DOCUMENT["components"]}
    return bool(jsonschema_rs.is_valid(whole, value, formats=FORMATS, validate_formats=True))
