"""What the template promises: least privilege, kept data, bounded logs, a closed door."""

import inspect
from typing import Any

import pytest
from aws_lambda_powertools.utilities.idempotency import DynamoDBPersistenceLayer

from callbacks import tables
from tests.sources import CHECKS, FUNCTIONS, RESOURCES, STATES, TABLES, TEMPLATE, statements_of
from tests.workflow.engine import resolved as deployed

ALLOWED_ACTIONS = {
    "VerifySignature": {"secretsmanager:GetSecretValue"},
    "ValidateCallback": set[str](),
    "SaveCallbackRecord": {"dynamodb:PutItem"},
    "CrossCheckPayment": {"dynamodb:GetItem"},
    "InquirePayment": {"secretsmanager:GetSecretValue"},
    "InvokeProcessPaid": {
        "lambda:InvokeFunction",
        "dynamodb:PutItem",
        "dynamodb:UpdateItem",
        "dynamodb:DeleteItem",
        "dynamodb:Query",
    },
    "WriteErrorLog": {"dynamodb:UpdateItem"},
    "ReportToSentry": set[str](),
    "SendErrorEmail": {"ses:SendEmail", "dynamodb:UpdateItem"},
    "CollectUndispatched": {"dynamodb:Query", "dynamodb:GetItem", "dynamodb:UpdateItem", "dynamodb:PutItem"},
    "FindFailures": {"dynamodb:GetItem", "dynamodb:Query"},
    "ClaimFailure": {"dynamodb:GetItem", "dynamodb:UpdateItem"},
    "SettleFailure": {"dynamodb:GetItem", "dynamodb:UpdateItem"},
    "CheckReadiness": {"secretsmanager:GetSecretValue", "dynamodb:GetItem"},
}
# What each function does beside its step.
LOG = {
    "Effect": "Allow",
    "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
    "Resource": {"Fn::GetAtt": ["TaskLogs", "Arn"]},
}
TRACE = {"Effect": "Allow", "Action": ["xray:PutTraceSegments", "xray:PutTelemetryRecords"], "Resource": "*"}
LOG_DELIVERY = {
    "logs:CreateLogDelivery",
    "logs:GetLogDelivery",
    "logs:UpdateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:DescribeResourcePolicies",
    "logs:DescribeLogGroups",
}
TRACING = {
    "xray:PutTraceSegments",
    "xray:PutTelemetryRecords",
    "xray:GetSamplingRules",
    "xray:GetSamplingTargets",
}


@pytest.mark.parametrize(("function", "actions"), ALLOWED_ACTIONS.items())
def test_a_function_may_do_what_its_step_needs_and_nothing_else(function: str, actions: set[str]) -> None:
    log, trace, *others = statements_of(f"{function}Role")
    assert (log, trace) == (LOG, TRACE)
    assert {action for statement in others for action in statement["Action"]} == actions
    assert all(statement["Effect"] == "Allow" and statement["Resource"] != "*" for statement in others)


def test_each_function_has_a_role_of_its_own_and_no_permissions_besides() -> None:
    assert set(FUNCTIONS) == set(ALLOWED_ACTIONS)
    for function, properties in FUNCTIONS.items():
        assert properties["Role"] == {"Fn::GetAtt": [f"{function}Role", "Arn"]}
        assert "Policies" not in properties
        role = RESOURCES[f"{function}Role"]["Properties"]
        assert set(role) == {"AssumeRolePolicyDocument", "Policies"}
        (assume,) = role["AssumeRolePolicyDocument"]["Statement"]
        assert assume["Principal"] == {"Service": "lambda.amazonaws.com"}


def tasks_of(machine: str) -> list[dict[str, Any]]:
    states = STATES[machine]
    return [{"Fn::GetAtt": [function, "Arn"]} for function in ALLOWED_ACTIONS if function in states]


def test_the_callback_machine_may_run_its_tasks_and_nothing_else() -> None:
    invoke, confirm, log = statements_of("CallbackWorkflowRole")
    assert invoke["Action"] == ["lambda:InvokeFunction"]
    assert invoke["Resource"] == tasks_of("callback")
    assert confirm["Action"] == ["dynamodb:UpdateItem"]
    assert confirm["Resource"] == statements_of("SaveCallbackRecordRole")[-1]["Resource"]
    # Without each of these the console has no execution to draw: SAM's Logging adds no permissions.
    assert set(log["Action"]) == LOG_DELIVERY | TRACING


def test_the_healing_machine_may_run_its_tasks_and_the_callback_machine_and_nothing_else() -> None:
    invoke, run, trace = statements_of("HealingWorkflowRole")
    assert invoke["Action"] == ["lambda:InvokeFunction"]
    assert sorted(map(str, invoke["Resource"])) == sorted(map(str, tasks_of("healing")))
    assert (run["Action"], run["Resource"]) == (["states:StartSyncExecution"], {"Ref": "BankAppCallback"})
    assert set(trace["Action"]) == TRACING


def test_the_api_may_start_the_machine_and_nothing_else() -> None:
    (statement,) = statements_of("CallbackApiRole")
    assert statement == {
        "Effect": "Allow",
        "Action": ["states:StartSyncExecution"],
        "Resource": {"Ref": "BankAppCallback"},
    }


def test_the_api_takes_nothing_but_json_and_answers_for_each_status_of_the_backend() -> None:
    body = RESOURCES["CallbackApi"]["Properties"]["DefinitionBody"]
    assert {path: set(operations) for path, operations in body["paths"].items()} == {"/bankapp/callback": {"post"}}
    operation = body["paths"]["/bankapp/callback"]["post"]
    integration = operation["x-amazon-apigateway-integration"]
    assert integration["type"] == "aws"
    assert integration["passthroughBehavior"] == "never"
    assert set(integration["requestTemplates"]) == {"application/json"}
    assert set(integration["responses"]) == {"default", r"4\d{2}", r"5\d{2}"}
    assert {response["statusCode"] for response in integration["responses"].values()} <= set(operation["responses"])
    assert RESOURCES["CallbackApi"]["Properties"]["MethodSettings"][0]["ThrottlingRateLimit"] == {"Ref": "ThrottleRate"}


def test_the_machine_is_express_and_its_history_is_logged_for_the_console() -> None:
    machine = RESOURCES["BankAppCallback"]["Properties"]
    assert machine["Type"] == "EXPRESS"
    assert machine["Tracing"] == {"Enabled": True}
    assert machine["Logging"]["Level"] == "ALL"
    assert machine["Logging"]["IncludeExecutionData"] == {"Ref": "LogExecutionData"}
    name = RESOURCES["WorkflowLogs"]["Properties"]["LogGroupName"]["Fn::Sub"]
    assert name.startswith("/aws/vendedlogs/states/")


def test_an_execution_that_cannot_report_itself_rings() -> None:
    alarms = [r["Properties"] for r in RESOURCES.values() if r["Type"] == "AWS::CloudWatch::Alarm"]
    assert {
        (alarm["Dimensions"][0]["Value"]["Ref"], alarm["MetricName"], alarm["ComparisonOperator"], alarm["Threshold"])
        for alarm in alarms
    } == {
        ("BankAppCallback", "ExecutionsFailed", "GreaterThanThreshold", 0),
        ("BankAppCallback", "ExecutionsTimedOut", "GreaterThanThreshold", 0),
        ("BankAppHealing", "ExecutionsSucceeded", "LessThanThreshold", 1),
    }


def test_a_healing_that_is_never_started_rings() -> None:
    alarm = RESOURCES["HealingStopped"]["Properties"]
    assert alarm["TreatMissingData"] == "breaching"
    # Two runs at the least have to fall into its period.
    assert alarm["Period"] >= 2 * 60 * TEMPLATE["Parameters"]["HealingMinutes"]["MaxValue"]


def test_healing_runs_by_itself() -> None:
    machine = RESOURCES["BankAppHealing"]["Properties"]
    assert machine["Type"] == "STANDARD"
    schedule = machine["Events"]["Schedule"]
    assert schedule["Type"] == "ScheduleV2"
    assert schedule["Properties"]["ScheduleExpression"] == {"Fn::Sub": "rate(${HealingMinutes} minutes)"}
    assert schedule["Properties"]["Input"] == "{}"


def test_every_log_ends() -> None:
    groups = [r["Properties"] for r in RESOURCES.values() if r["Type"] == "AWS::Logs::LogGroup"]
    assert len(groups) == 2
    assert all(group["RetentionInDays"] == {"Ref": "LogRetentionDays"} for group in groups)


@pytest.mark.parametrize("logical_id", TABLES)
def test_a_table_keeps_what_it_has(logical_id: str) -> None:
    table = RESOURCES[logical_id]
    properties = table["Properties"]
    # A first deployment that fails must not leave a table behind whose name then bars the second.
    assert (table["DeletionPolicy"], table["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")
    assert properties["BillingMode"] == "PAY_PER_REQUEST"
    assert properties["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert properties["SSESpecification"] == {"SSEEnabled": True}


@pytest.mark.parametrize(
    ("logical_id", "model"),
    [
        ("WalletCallbackRecordTable", tables.CallbackRecord),
        ("CallbackErrorLogTable", tables.CallbackError),
        ("CallbackAlertTable", tables.Alert),
    ],
)
def test_a_table_has_the_keys_of_its_model(logical_id: str, model: Any) -> None:
    properties = RESOURCES[logical_id]["Properties"]
    keys = {key["KeyType"]: key["AttributeName"] for key in properties["KeySchema"]}
    attributes = model.get_attributes().values()
    assert keys.get("HASH") == next(a.attr_name for a in attributes if a.is_hash_key)
    assert keys.get("RANGE") == next((a.attr_name for a in attributes if a.is_range_key), None)
    types = {attribute.attr_name: attribute.attr_type for attribute in attributes}
    indexes = {index.Meta.index_name: index for index in model._indexes.values()}
    assert set(indexes) == {index["IndexName"] for index in properties.get("GlobalSecondaryIndexes", [])}
    for index in properties.get("GlobalSecondaryIndexes", []):
        in_model = indexes[index["IndexName"]].Meta.attributes.values()
        assert {key["AttributeName"]: key["KeyType"] for key in index["KeySchema"]} == {
            attribute.attr_name: "HASH" if attribute.is_hash_key else "RANGE" for attribute in in_model
        }
        assert set(index["Projection"].get("NonKeyAttributes", [])) <= set(types)
    for defined in properties["AttributeDefinitions"]:
        assert types[defined["AttributeName"]] == defined["AttributeType"]


def test_the_idempotency_table_has_the_key_and_the_expiry_of_its_layer() -> None:
    layer = inspect.signature(DynamoDBPersistenceLayer).parameters
    properties = RESOURCES["PaymentIdempotencyTable"]["Properties"]
    assert properties["KeySchema"] == [{"AttributeName": layer["key_attr"].default, "KeyType": "HASH"}]
    assert properties["TimeToLiveSpecification"] == {
        "AttributeName": layer["expiry_attr"].default,
        "Enabled": True,
    }


def test_no_mode_is_deployed_before_what_its_check_needs_was_read() -> None:
    ready = RESOURCES["ChecksReady"]["Properties"]
    assert RESOURCES["BankAppCallback"]["DependsOn"] == "ChecksReady"
    assert ready["ServiceToken"] == {"Fn::GetAtt": ["CheckReadiness", "Arn"]}
    substitutions = RESOURCES["BankAppCallback"]["Properties"]["DefinitionSubstitutions"]
    for name in (*CHECKS.values(), "SignatureScheme"):
        assert ready[name] == substitutions[name] == {"Ref": name}
    assert ready["Secret"] == substitutions["BankSecret"]
    assert ready["Orders"] == {"table": substitutions["OrderTable"], "key": substitutions["OrderKey"]}
    assert ready["Payments"] == {"table": substitutions["PaymentTable"], "key": substitutions["PaymentKey"]}
    assert ready["ServiceTimeout"] > FUNCTIONS["CheckReadiness"]["Timeout"]


def test_the_console_groups_every_parameter_once_in_the_order_of_the_file() -> None:
    groups = TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert [name for group in groups for name in group["Parameters"]] == list(TEMPLATE["Parameters"])


def test_a_mode_is_one_of_three_and_off_until_somebody_says_otherwise() -> None:
    for parameter in CHECKS.values():
        assert TEMPLATE["Parameters"][parameter]["AllowedValues"] == ["off", "warn", "enforce"]
        assert TEMPLATE["Parameters"][parameter]["Default"] == "off"


def test_the_api_lets_everybody_in_or_only_the_addresses_of_the_list() -> None:
    policy = {"policy": RESOURCES["CallbackApi"]["Properties"]["DefinitionBody"]["x-amazon-apigateway-policy"]}
    assert deployed(policy) == {}
    allow, deny = deployed(policy, AllowedSourceIps="203.0.113.0/24,2001:db8::/32")["policy"]["Statement"]
    assert (allow["Effect"], deny["Effect"]) == ("Allow", "Deny")
    assert deny["Condition"] == {"NotIpAddress": {"aws:SourceIp": ["203.0.113.0/24", "2001:db8::/32"]}}


def test_what_a_check_that_only_warns_finds_is_counted() -> None:
    metric = RESOURCES["ChecksFailed"]["Properties"]
    assert metric["FilterPattern"] == '{ $.message = "Check failed" }'
    assert [dimension["Value"] for dimension in metric["MetricTransformations"][0]["Dimensions"]] == [
        "$.check",
        "$.mode",
    ]
