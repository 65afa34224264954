from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynamodb.constants import NUMBER
from pynamodb.models import Model

from callbacks.tables import CallbackError, CallbackRecord, DecimalAttribute, bound


@pytest.mark.parametrize(
    ("model", "logical_id"), [(CallbackRecord, "WalletCallbackRecordTable"), (CallbackError, "CallbackErrorLogTable")]
)
def test_the_keys_are_the_templates(template: dict[str, Any], model: type[Model], logical_id: str) -> None:
    properties = template["Resources"][logical_id]["Properties"]
    types = {
        definition["AttributeName"]: definition["AttributeType"] for definition in properties["AttributeDefinitions"]
    }
    keys = {key["KeyType"]: key["AttributeName"] for key in properties["KeySchema"]}
    attributes = model.get_attributes()
    own = {
        "HASH": [name for name, attribute in attributes.items() if attribute.is_hash_key],
        "RANGE": [name for name, attribute in attributes.items() if attribute.is_range_key],
    }
    assert {kind: names for kind, names in own.items() if names} == {kind: [name] for kind, name in keys.items()}
    indexed = {
        key["AttributeName"] for index in properties.get("GlobalSecondaryIndexes", []) for key in index["KeySchema"]
    }
    assert types.keys() == {*keys.values(), *indexed}
    for name, kind in types.items():
        assert attributes[name].attr_type == kind
        assert not attributes[name].null


def test_a_model_is_bound_to_the_table_of_the_given_name_with_timeouts_and_no_retries() -> None:
    record = bound(CallbackRecord, "some-table")
    meta: Any = record.Meta
    assert issubclass(record, CallbackRecord)
    assert meta.table_name == "some-table"
    # Both fit a step of 2 s; the client's own retries would not.
    assert (meta.connect_timeout_seconds, meta.read_timeout_seconds, meta.max_retry_attempts) == (0.5, 1, 0)


def test_a_table_is_bound_once_so_that_its_connection_is_kept() -> None:
    assert bound(CallbackRecord, "one") is bound(CallbackRecord, "one")
    assert bound(CallbackRecord, "one") is not bound(CallbackRecord, "other")
    assert bound(CallbackRecord, "one") is not bound(CallbackError, "one")


@given(st.decimals(min_value=0, max_value=10**37, allow_nan=False, allow_infinity=False))
def test_a_number_is_stored_and_read_exactly(value: Decimal) -> None:
    attribute = DecimalAttribute()
    assert attribute.attr_type == NUMBER
    assert attribute.serialize(value) == str(value)
    assert str(attribute.deserialize(attribute.serialize(value))) == str(value)
