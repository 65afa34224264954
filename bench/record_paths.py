"""Runs each path through the real state machines in-process, and writes what their functions receive and their history.

`bench.paths` starts it as a pytest module, because the fixtures of tests/workflow make the account and load the
handlers.
"""

import json
import os
from pathlib import Path
from typing import Any

from bench.account import empty_tables
from bench.paths import FAILING, IDLE, PATHS, REQUEST_IDS, body_of_path
from local import vtl
from local.stack import ROOT
from package import LAMBDA_DIR
from tests.sources import RESOURCES
from tests.workflow.account import SAVE_RECORD, Workflow, _executions
from tests.workflow.engine import resolved

HEADERS = {"Content-Type": "application/json", "User-Agent": "BankGateway/2.1", "Host": "example.com"}


def rendered(body: str, request_id: str) -> Any:
    """Return the workflow's input as the API's request template builds it."""
    api = RESOURCES["CallbackApi"]["Properties"]["DefinitionBody"]
    integration = api["paths"]["/bankapp/callback"]["post"]["x-amazon-apigateway-integration"]
    template = resolved(integration["requestTemplates"]["application/json"])
    context = {
        "requestId": "8f7e6d5c-0000-4000-8000-000000000000",
        "extendedRequestId": request_id,
        "requestTimeEpoch": 1795341600123,
        "httpMethod": "POST",
        "identity": {"sourceIp": "203.0.113.7"},
    }
    call = vtl.render(template, context, body, HEADERS)
    return json.loads(json.loads(call)["input"])


def test_record_paths(workflow: Workflow) -> None:
    payloads: list[dict[str, str]] = []
    answer = workflow.functions._answer

    def remember(state: str, parameters: dict[str, Any]) -> dict[str, Any]:
        payload = parameters["Payload"]
        text = payload.decode() if isinstance(payload, bytes) else payload
        payloads.append({"function": state, "payload": text})
        return answer(state, parameters)

    workflow.functions._answer = remember  # type: ignore[method-assign]

    def take(path: str, size: int) -> dict[str, Any]:
        arn = workflow.healing_arn if path == IDLE else workflow._machine_arn
        execution = _executions(arn)[-1]
        taken = {
            "path": path,
            "size": size,
            "status": execution.status,
            "output": execution.to_describe_output().get("output"),
            "events": execution.to_history_output()["events"],
            "payloads": payloads.copy(),
            "items": [*workflow.records, *workflow.payments],
        }
        payloads.clear()
        return taken

    found = []
    for path, sizes in PATHS.items():
        for size in sizes:
            for name in ("records", "errors", "payments"):
                assert getattr(workflow, name) == [], name
            if path == IDLE:
                workflow.heal()
            else:
                for number, body in enumerate(body_of_path(path, size)):
                    payloads.clear()
                    if path in FAILING:
                        workflow.aws.refuse(SAVE_RECORD, "AccessDeniedException")
                    workflow.run(rendered(body, REQUEST_IDS[number]))
            found.append(take(path, size))
            workflow.recover()
            for state in ("SendErrorEmail", "ReportToSentry"):
                workflow.functions.replace_container(state)
            empty_tables()
    # Stack traces name the files as Lambda would, wherever the repository is.
    text = json.dumps(found, default=str).replace(f"{ROOT}/functions", LAMBDA_DIR).replace(str(ROOT), LAMBDA_DIR)
    Path(os.environ["BENCH_PATHS_FILE"]).write_text(text)
