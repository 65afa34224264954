"""Every answer conforms to openapi.yaml, which also decides which callbacks are accepted."""

import json
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from tests.contract import CALLBACK, SCHEMA, is_valid
from tests.e2e.conftest import ANSWER_SECONDS, CALLBACK_PATH, Local

OPERATION = SCHEMA[CALLBACK_PATH]["POST"]
CONFORMANCE = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


def is_callback(body: Any) -> bool:
    """Return whether the document allows a body."""
    try:
        document: Any = json.loads(body or "{}")
    except ValueError:
        return False
    return is_valid(CALLBACK, document)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(data=st.data())
def test_every_answer_is_as_documented(local: Local, mode: GenerationMode, data: st.DataObject) -> None:
    case = data.draw(OPERATION.as_strategy(generation_mode=mode))
    if isinstance(case.body, dict) and is_valid(CALLBACK, case.body):
        # Otherwise it could contradict an earlier one and be refused for that.
        case.body["paymentId"] = uuid.uuid4().hex
    response = case.call(base_url=local.server.url, timeout=ANSWER_SECONDS)
    case.validate_response(response, checks=CONFORMANCE)
    assert response.status_code == (200 if is_callback(response.request.body) else 500), response.text
