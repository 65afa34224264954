from collections.abc import Callable
from decimal import Decimal
from typing import Any
from unittest.mock import Mock

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from hypothesis import given
from hypothesis import strategies as st
from pynamodb.constants import NUMBER
from pynamodb.exceptions import PutError, PynamoDBException, UpdateError
from pynamodb.indexes import GlobalSecondaryIndex
from pynamodb.models import Model

from callbacks.tables import Alert, CallbackError, CallbackRecord, DecimalAttribute, Suppressed, bind, try_write
from tests.unit.kit import Json

MODELS: list[tuple[type[Model], str, set[str]]] = [
    (CallbackRecord, "WalletCallbackRecordTable", {"undispatchedSince"}),
    (CallbackError, "CallbackErrorLogTable", {"orderId", "queue", "queuedAt"}),
    (Alert, "CallbackAlertTable", set()),
    (Suppressed, "CallbackAlertTable", set()),
]


@pytest.mark.parametrize(("model", "logical_id", "sparse"), MODELS)
def test_the_keys_match_the_template(template: Json, model: type[Model], logical_id: str, sparse: set[str]) -> None:
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
    # An item without an index key is not in that index.
    assert {name for name in types if attributes[name].null} == sparse
    assert not sparse & set(keys.values())


@pytest.mark.parametrize(("model", "logical_id"), [entry[:2] for entry in MODELS])
def test_the_indexes_match_the_template(template: Json, model: type[Model], logical_id: str) -> None:
    own = {
        name: {
            "HASH" if attribute.is_hash_key else "RANGE": key
            for key, attribute in index.Meta.attributes.items()
            if attribute.is_hash_key or attribute.is_range_key
        }
        for name, index in vars(model).items()
        if isinstance(index, GlobalSecondaryIndex) and index.Meta.index_name == name
    }
    assert own == {
        index["IndexName"]: {key["KeyType"]: key["AttributeName"] for key in index["KeySchema"]}
        for index in template["Resources"][logical_id]["Properties"].get("GlobalSecondaryIndexes", [])
    }


@pytest.mark.parametrize("kind", [PutError, UpdateError])
def test_a_write_fails_quietly_only_if_its_own_condition_fails(kind: type[PynamoDBException]) -> None:
    def refuse_with(cause: Exception) -> Callable[[], object]:
        return Mock(side_effect=kind("no", cause))

    def answer(code: str) -> ClientError:
        return ClientError({"Error": {"Code": code, "Message": "no"}}, "UpdateItem")

    assert try_write(lambda: None)
    assert not try_write(refuse_with(answer("ConditionalCheckFailedException")))
    for cause in (answer("AccessDeniedException"), ReadTimeoutError(endpoint_url="https://example.com")):
        with pytest.raises(kind):
            try_write(refuse_with(cause))


def test_a_model_is_bound_to_a_table_with_timeouts_and_retries() -> None:
    record = bind(CallbackRecord, "some-table", read_timeout=0.3, retries=1)
    meta: Any = record.Meta
    assert issubclass(record, CallbackRecord)
    assert meta.table_name == "some-table"
    config = client_of(record).meta.config
    assert (config.connect_timeout, config.read_timeout, config.retries["total_max_attempts"]) == (0.1, 0.3, 2)


def test_tables_with_the_same_timeouts_share_a_client_before_the_first_call() -> None:
    first = client_of(bind(CallbackRecord, "a-new-table"))
    assert first is client_of(bind(CallbackError, "another-table"))
    assert first is not client_of(bind(CallbackRecord, "a-new-table", read_timeout=0.3))


def client_of(model: type[Model]) -> Any:
    return model._get_connection().connection._client


def test_a_table_is_bound_once_and_keeps_its_connection() -> None:
    assert bind(CallbackRecord, "one") is bind(CallbackRecord, "one")
    assert bind(CallbackRecord, "one") is not bind(CallbackRecord, "other")
    assert bind(CallbackRecord, "one") is not bind(CallbackError, "one")


@given(st.decimals(min_value=0, max_value=10**37, allow_nan=False, allow_infinity=False))
def test_a_number_is_stored_and_read_exactly(value: Decimal) -> None:
    attribute = DecimalAttribute()
    assert attribute.attr_type == NUMBER
    assert attribute.serialize(value) == str(value)
    assert str(attribute.deserialize(attribute.serialize(value))) == str(value)
