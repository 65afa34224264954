import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbacks.shown import show


@pytest.mark.parametrize(
    "usual",
    ["482500007436", "pay_bankapp_123", "b5f392f7-6d89-433c-b24f-bf6a772cab1a", "-D5rG9QFiAFnVg", "a:b", "a" * 64],
)
def test_a_usual_id_is_shown_as_it_is(usual: str) -> None:
    assert show(usual) == usual


@pytest.mark.parametrize(
    ("unusual", "shown"),
    [
        ("www.example.com", r'"www\u002eexample\u002ecom"'),
        ("https://example.com/a?b", r'"https:\u002f\u002fexample\u002ecom\u002fa\u003fb"'),
        ("Call 0812345678 now!", r'"Call\u00200812345678\u0020now\u0021"'),
        ("a@example", r'"a\u0040example"'),
        # Dots and slashes of other alphabets, and a letter that looks like ours.
        ("example\u3002com\u2215\uff0f", r'"example\u3002com\u2215\uff0f"'),
        ("p\u0430y", r'"p\u0430y"'),
        ("🎉", r'"\ud83c\udf89"'),
        ("\ud83c", r'"\ud83c"'),
        ("<b>\n", r'"\u003cb\u003e\u000a"'),
        ("", '""'),
        ("a" * 65, f'"{"a" * 32}"...'),
        ('"quoted"', r'"\u0022quoted\u0022"'),
    ],
    ids=ascii,
)
def test_any_other_id_is_shown_quoted_escaped_and_cut(unusual: str, shown: str) -> None:
    assert show(unusual) == shown


def test_no_id_is_unknown() -> None:
    assert show(None) == "unknown"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=32))
def test_what_is_shown_is_harmless_and_can_be_read_back(text: str) -> None:
    shown = show(text)
    assert re.fullmatch(r'[A-Za-z0-9_:-]+|"([A-Za-z0-9_:-]|\\u[0-9a-f]{4})*"', shown)
    assert (json.loads(shown) if shown.startswith('"') else shown) == text
