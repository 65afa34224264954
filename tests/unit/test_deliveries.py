import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbacks import deliveries

FEWEST_BYTES = 300


@given(
    st.one_of(st.dictionaries(st.sampled_from(["body", "headers", "sourceIp", "x"]), st.text()), st.text()),
    st.integers(FEWEST_BYTES, 3000),
)
def test_a_short_text_is_json_that_fits(delivery: Any, max_bytes: int) -> None:
    text = deliveries.as_short_text(delivery, max_bytes)
    assert len(text.encode()) <= max_bytes
    kept = json.loads(text)
    assert kept == delivery or deliveries.is_cut(kept)


@pytest.mark.parametrize("delivery", [None, 7, "text", ["body"], {}, {"body": None}, {"body": "{}"}])
def test_what_is_short_is_kept_whole(delivery: Any) -> None:
    text = deliveries.as_short_text(delivery, FEWEST_BYTES)
    assert json.loads(text) == delivery
    assert not deliveries.is_cut(delivery)


@pytest.mark.parametrize("delivery", ["x" * 3000, ["x"] * 1000, {"body": ["x"] * 1000}, {"headers": {"a": "x" * 3000}}])
def test_a_large_input_of_any_shape_is_cut(delivery: Any) -> None:
    assert deliveries.is_cut(json.loads(deliveries.as_short_text(delivery, FEWEST_BYTES)))


def test_a_body_that_the_api_has_cut_keeps_its_length_and_gets_no_digest() -> None:
    delivery = {"body": "x" * 1024, "bodyLength": 9000, "sourceIp": "203.0.113.7", "headers": {}}
    assert json.loads(deliveries.as_short_text(delivery, 3000)) == delivery
    kept = json.loads(deliveries.as_short_text(delivery, FEWEST_BYTES))
    assert len(kept.pop("body")) > 100
    assert kept == {"bodyLength": 9000, "sourceIp": "203.0.113.7"}


def test_a_beginning_has_at_most_1024_characters() -> None:
    assert json.loads(deliveries.as_short_text({"body": "x" * 9000}, 8000))["body"] == "x" * 1024
