"""The OpenAPI document agrees with the deployed API and with the rules for callbacks."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from callbacks import model
from callbacks.errors import InvalidCallback
from tests.contract import CALLBACK, DOCUMENT, SCHEMA, is_valid
from tests.outcomes import FAILURE_MESSAGE
from tests.sources import RESOURCES

API: dict[str, Any] = RESOURCES["CallbackApi"]["Properties"]["DefinitionBody"]
OPERATION: dict[str, Any] = DOCUMENT["paths"]["/bankapp/callback"]["post"]
DEPLOYED: dict[str, Any] = API["paths"]["/bankapp/callback"]["post"]
TEMPLATES: dict[str, Any] = DEPLOYED["x-amazon-apigateway-integration"]["requestTemplates"]
CALLBACKS = OPERATION["requestBody"]["content"]["application/json"]["examples"]
FAILURES: dict[str, Any] = OPERATION["responses"]["500"]["content"]["application/json"]["examples"]
ANSWERS = [
    (status, name)
    for status, response in OPERATION["responses"].items()
    for name in response["content"]["application/json"].get("examples", {})
]


def is_accepted(body: str) -> bool:
    try:
        model.parse(body)
    except InvalidCallback:
        return False
    return True


def test_the_document_is_valid_openapi() -> None:
    SCHEMA.validate()


def test_the_document_has_the_deployed_paths_and_methods() -> None:
    assert {path: set(operations) for path, operations in DOCUMENT["paths"].items()} == {
        path: set(operations) for path, operations in API["paths"].items()
    }
    assert OPERATION["operationId"] == DEPLOYED["operationId"]


def test_the_document_has_every_status_that_the_api_answers() -> None:
    own = {response.get("statusCode") for response in API["x-amazon-apigateway-gateway-responses"].values()} - {None}
    # API Gateway's own statuses for an address that is not on the allow list and for more than 10 MB.
    assert "x-amazon-apigateway-policy" in API
    assert set(OPERATION["responses"]) == set(DEPLOYED["responses"]) | own | {"403", "413"}


def test_the_document_has_the_content_types_that_the_api_accepts() -> None:
    assert set(OPERATION["requestBody"]["content"]) == set(TEMPLATES)


def test_the_document_has_only_headers_that_reach_the_workflow() -> None:
    for parameter in DOCUMENT["components"]["parameters"].values():
        assert parameter["in"] == "header"
        assert not parameter.get("required")
        assert f'"{parameter["name"]}"' in str(TEMPLATES["application/json"])


def test_the_document_has_the_fields_and_limits_of_a_callback() -> None:
    assert set(CALLBACK["properties"]) == set(model.RULES)
    assert DOCUMENT["components"]["schemas"]["Id"]["maxLength"] == model.MAX_ID_CHARACTERS
    assert f"first {model.MAX_MESSAGE_CHARACTERS:,} characters" in CALLBACK["properties"]["message"]["description"]
    assert model.AMOUNT_RULE in CALLBACK["properties"]["amount"]["description"]
    assert f"{model.MAX_BODY_BYTES:,} bytes" in OPERATION["description"]


@pytest.mark.parametrize("field", model.RULES)
def test_a_field_is_required_by_the_document_and_the_rules_or_by_neither(field: str) -> None:
    callback = {name: value for name, value in CALLBACKS["paid"]["value"].items() if name != field}
    assert is_accepted(json.dumps(callback)) == (field not in CALLBACK["required"])


@pytest.mark.parametrize("name", CALLBACKS)
def test_an_example_of_a_callback_is_valid(name: str) -> None:
    example = CALLBACKS[name]["value"]
    assert is_valid(CALLBACK, example)
    assert is_accepted(json.dumps(example))


@pytest.mark.parametrize(("status", "name"), ANSWERS)
def test_an_example_of_an_answer_matches_its_schema(status: str, name: str) -> None:
    content = OPERATION["responses"][status]["content"]["application/json"]
    example = content["examples"][name]["value"]
    assert is_valid(content["schema"], example)
    assert status == "200" or example["message"] == FAILURE_MESSAGE


@pytest.mark.parametrize("status", OPERATION["responses"])
def test_each_answer_says_whether_to_deliver_the_callback_again(status: str) -> None:
    response = OPERATION["responses"][status]
    said = [response["description"]] if status != "500" else [example["summary"] for example in FAILURES.values()]
    assert all(re.search(r"[Dd]eliver(ing)? it again", text) for text in said)


def test_no_refusal_of_the_callback_itself_asks_for_another_delivery() -> None:
    asking = [name for name, example in FAILURES.items() if "Do not deliver it again" not in example["summary"]]
    assert asking == ["failed"]


def test_the_example_of_an_invalid_callback_has_the_rules_own_words() -> None:
    with pytest.raises(InvalidCallback) as refusal:
        model.parse('{"paymentId": "pay_1", "userId": "u1", "success": true, "amount": -1}')
    assert FAILURES["invalid"]["value"]["error"] == str(refusal.value)


def test_the_examples_show_an_extended_request_id_as_the_api_makes_it() -> None:
    header = DOCUMENT["components"]["headers"]["RequestId"]["example"]
    assert re.fullmatch("[A-Za-z0-9_-]{15}=", header)
    assert FAILURES["failed"]["value"]["error"] == f"Internal error, request id {header.rstrip('=')}"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"orderId": ""}, id="empty"),
        pytest.param({"orderId": "  "}, id="blank"),
        pytest.param({"orderId": "\t"}, id="tab"),
        pytest.param({"orderId": "a\n"}, id="line break"),
        pytest.param({"orderId": "a\u00a0b"}, id="no-break space"),
        pytest.param({"orderId": "a\u202eb"}, id="text direction"),
        pytest.param({"orderId": "a\ufffd"}, id="broken character"),
        pytest.param({"paymentId": "\ufffda"}, id="broken first character"),
        pytest.param({"userId": "\ufffd"}, id="only a broken character"),
        pytest.param({"orderId": " a"}, id="space at the beginning"),
        pytest.param({"paymentId": "a "}, id="space at the end"),
        pytest.param({"userId": "a  b c"}, id="spaces inside"),
        pytest.param({"orderId": "e\u0301"}, id="not in normal form"),
        pytest.param({"paymentId": "\u0e01\u0e48\u0e38"}, id="Thai, not in normal form"),
        pytest.param({"orderId": "ชำระเงิน"}, id="Thai"),
        pytest.param({"orderId": "é€🎉"}, id="accents, signs and emoji"),
        pytest.param({"orderId": "a" * 128}, id="longest id"),
        pytest.param({"orderId": "🎉" * 128}, id="longest id in emoji"),
        pytest.param({"orderId": "a" * 129}, id="id too long"),
        pytest.param({"orderId": 1}, id="number"),
        pytest.param({"success": 1}, id="success as a number"),
        pytest.param({"success": None}, id="success as null"),
        pytest.param({"amount": None}, id="no amount"),
        pytest.param({"amount": 0}, id="zero"),
        pytest.param({"amount": -0.0}, id="negative zero"),
        pytest.param({"amount": 10**38 - 1}, id="largest"),
        pytest.param({"amount": 10**38}, id="too large"),
        pytest.param({"amount": 1e100}, id="far too large"),
        pytest.param({"amount": 1e-30}, id="smallest"),
        pytest.param({"amount": 9.9e-31}, id="too small"),
        pytest.param({"amount": 1.2345678901234567e-30}, id="small with many digits"),
        pytest.param({"amount": -0.01}, id="negative"),
        pytest.param({"amount": "1"}, id="amount as text"),
        pytest.param({"amount": True}, id="amount as boolean"),
        pytest.param({"message": None}, id="no message"),
        pytest.param({"message": "\0" * 1024}, id="longest message that is kept whole"),
        pytest.param({"message": "a" * 1025}, id="longer message"),
        pytest.param({"message": ["a"]}, id="message as a list"),
        pytest.param({"message": "a\ufffd"}, id="broken character in a message"),
        pytest.param({"more": {"orderId": [None]}}, id="unknown field"),
    ],
)
def test_the_document_and_the_rules_agree_at_the_limits(changes: dict[str, Any]) -> None:
    callback = CALLBACKS["paid"]["value"] | changes
    assert is_valid(CALLBACK, callback) == is_accepted(json.dumps(callback))


def test_the_document_says_in_words_that_the_case_of_a_name_matters() -> None:
    callback = CALLBACKS["paid"]["value"]
    assert is_accepted(json.dumps(callback))
    assert not is_accepted(json.dumps(callback | {"OrderId": callback["orderId"]}))
    assert "differs from one of them in case only, such\nas `OrderId`, is refused" in OPERATION["description"]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
@settings(deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_the_document_and_the_rules_agree_on_generated_callbacks(mode: GenerationMode, data: st.DataObject) -> None:
    case = data.draw(SCHEMA["/bankapp/callback"]["POST"].as_strategy(generation_mode=mode))
    if not isinstance(case.body, bytes):
        assert is_valid(CALLBACK, case.body) == is_accepted(json.dumps(case.body))
