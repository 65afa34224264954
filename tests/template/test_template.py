"""What the template guarantees: least privilege, kept data, bounded logs, alarms, and an API that takes only JSON."""

import io
import json
import logging
import re
import runpy
import tomllib
from typing import Any

import pytest
from ministack.services.cloudformation import engine as cloudformation

import callbacks
from callbacks import checks
from callbacks.errors import InvalidSignature
from callbacks.tables import CallbackError
from callbacks.telemetry import logger
from local.stack import ROOT
from tests.sources import CHECKS, FUNCTIONS, MACHINES, RESOURCES, STATES, TABLES, TEMPLATE, statements_of
from tests.unit.kit import context
from tests.workflow.engine import PARAMETERS
from tests.workflow.engine import resolved as deployed

# The statements of every task's role, besides those for the calls of its step.
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
ALARMS: dict[str, dict[str, Any]] = {
    name: resource["Properties"] for name, resource in RESOURCES.items() if resource["Type"] == "AWS::CloudWatch::Alarm"
}

# A role that exists only if process-paid is watched.
REOPENING_ROLE = {"Fn::If": ["WatchesProcessPaid", {"Ref": "ReopenPaymentRole"}, {"Ref": "AWS::NoValue"}]}


def arns_of_tasks(machine: str) -> list[dict[str, Any]]:
    return [{"Fn::GetAtt": [name, "Arn"]} for name in FUNCTIONS if name in STATES[machine]]


# Permissions. That a task needs each of its actions, and has no others, is proven in tests/e2e/test_permissions.py.


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_task_may_log_and_trace_and_otherwise_reach_only_named_resources(function: str) -> None:
    log, *others = statements_of(f"{function}Role")
    assert log == LOG
    assert statements_of(f"{function}Role", is_traced=True) == [LOG, TRACE, *others]
    for statement in others:
        assert statement["Effect"] == "Allow"
        assert statement["Resource"] != "*"
        assert not any("*" in action for action in statement["Action"])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_has_a_role_of_its_own_and_no_other_permissions(function: str) -> None:
    properties = FUNCTIONS[function]
    assert properties["Role"] == {"Fn::GetAtt": [f"{function}Role", "Arn"]}
    assert "Policies" not in properties
    role = RESOURCES[f"{function}Role"]["Properties"]
    assert set(role) == {"AssumeRolePolicyDocument", "Policies"}
    (assume,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert assume["Principal"] == {"Service": "lambda.amazonaws.com"}


def test_the_callback_machine_may_run_its_tasks_and_nothing_else() -> None:
    invoke, confirm, report, park, log = statements_of("CallbackWorkflowRole")
    assert invoke["Action"] == ["lambda:InvokeFunction"]
    assert invoke["Resource"] == arns_of_tasks("callback")
    assert confirm["Action"] == ["dynamodb:UpdateItem"]
    assert confirm["Resource"] == statements_of("SaveCallbackRecordRole")[-2]["Resource"]
    assert report["Action"] == ["states:StartExecution"]
    name = RESOURCES["BankAppCallback"]["Properties"]["Name"]["Fn::Sub"]
    assert report["Resource"]["Fn::Sub"].endswith(f":stateMachine:{name}")
    assert (park["Action"], park["Resource"]) == (["sqs:SendMessage"], {"Fn::GetAtt": ["ParkedQueue", "Arn"]})
    # The console shows no execution if one of these is missing: SAM's Logging adds no permissions.
    assert set(log["Action"]) == LOG_DELIVERY
    assert set(statements_of("CallbackWorkflowRole", is_traced=True)[-1]["Action"]) == TRACING


def test_the_healing_machine_may_run_its_tasks_the_callback_machine_and_its_own_map_only() -> None:
    invoke, run, redrive, follow, log = statements_of("HealingWorkflowRole")
    assert invoke["Action"] == ["lambda:InvokeFunction"]
    assert sorted(map(str, invoke["Resource"])) == sorted(map(str, arns_of_tasks("healing")))
    assert (run["Action"], run["Resource"]) == (["states:StartSyncExecution"], {"Ref": "BankAppCallback"})
    # By name: a role that referred to its own machine would be a cycle.
    name = RESOURCES["BankAppHealing"]["Properties"]["Name"]["Fn::Sub"]
    arn = "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}"
    assert redrive["Action"] == ["states:StartExecution"]
    assert redrive["Resource"] == {"Fn::Sub": f"{arn}:stateMachine:{name}"}
    assert follow["Action"] == ["states:DescribeExecution", "states:StopExecution"]
    assert follow["Resource"] == {"Fn::Sub": f"{arn}:execution:{name}:*"}
    # The child executions of the map are Express, whose history is a log.
    assert set(log["Action"]) == LOG_DELIVERY
    assert set(statements_of("HealingWorkflowRole", is_traced=True)[-1]["Action"]) == TRACING
    logging = RESOURCES["BankAppHealing"]["Properties"]["Logging"]
    assert logging == RESOURCES["BankAppCallback"]["Properties"]["Logging"]


def test_the_api_may_start_the_callback_machine_and_nothing_else() -> None:
    (statement,) = statements_of("CallbackApiRole")
    assert statement == {
        "Effect": "Allow",
        "Action": ["states:StartSyncExecution"],
        "Resource": {"Ref": "BankAppCallback"},
    }


def secrets_of(function: str, **parameters: str) -> set[str]:
    """Return the names of the secrets that the function may read."""
    arns = [
        deployed(statement["Resource"], **parameters)
        for statement in statements_of(f"{function}Role")
        if statement["Action"] == ["secretsmanager:GetSecretValue"]
    ]
    return {arn.partition(":secret:")[2].removesuffix("-??????") for arn in arns}


def test_keys_and_inquiry_credentials_may_be_two_secrets_each_read_by_its_own_check() -> None:
    two = {"BankSecretName": "keys", "InquirySecretName": "access"}
    assert (secrets_of("VerifySignature", **two), secrets_of("InquirePayment", **two)) == ({"keys"}, {"access"})
    assert secrets_of("CheckReadiness", **two) == {"keys", "access"}
    for function in ("VerifySignature", "InquirePayment", "CheckReadiness"):
        assert secrets_of(function) == {"kbank-test"}
        assert secrets_of(function, BankSecretName="both") == {"both"}


def test_customer_managed_keys_decrypt_secrets_and_tables_of_others_and_nothing_else() -> None:
    policy = RESOURCES["DecryptWithOwnKeys"]
    assert not deployed({"Fn::If": [policy["Condition"], True, False]})
    (statement,) = deployed(policy["Properties"]["PolicyDocument"], KmsKeyArns="arn:1,arn:2")["Statement"]
    assert (statement["Action"], statement["Resource"]) == ("kms:Decrypt", ["arn:1", "arn:2"])
    services = ["secretsmanager.ap-southeast-1.amazonaws.com", "dynamodb.ap-southeast-1.amazonaws.com"]
    assert statement["Condition"] == {"StringEquals": {"kms:ViaService": services}}
    # The tables of this stack are encrypted with a key of AWS; the record table may be another one.
    roles = [name for name, resource in RESOURCES.items() if resource["Type"] == "AWS::IAM::Role"]
    needing = {
        role
        for role in roles
        for statement in statements_of(role)
        if statement["Action"][0].startswith(("secretsmanager:", "dynamodb:"))
        and any(name in str(statement["Resource"]) for name in ("Secret", "OrderTableName", "ExistingRecordTableName"))
    }
    given = {str(role) for role in policy["Properties"]["Roles"]}
    assert given == {str({"Ref": role}) for role in needing - {"ReopenPaymentRole"}} | {str(REOPENING_ROLE)}
    assert "ReopenPaymentRole" in needing


# The API


def test_the_api_takes_only_json_and_answers_every_status_of_the_backend() -> None:
    body = RESOURCES["CallbackApi"]["Properties"]["DefinitionBody"]
    assert {path: set(operations) for path, operations in body["paths"].items()} == {"/bankapp/callback": {"post"}}
    operation = body["paths"]["/bankapp/callback"]["post"]
    integration = operation["x-amazon-apigateway-integration"]
    assert integration["type"] == "aws"
    assert integration["passthroughBehavior"] == "never"
    assert set(integration["requestTemplates"]) == {"application/json"}
    assert set(integration["responses"]) == {"default", r"[45]\d{2}"}
    assert {response["statusCode"] for response in integration["responses"].values()} <= set(operation["responses"])
    assert RESOURCES["CallbackApi"]["Properties"]["MethodSettings"][0]["ThrottlingRateLimit"] == {"Ref": "ThrottleRate"}


def test_the_api_allows_every_address_or_only_the_listed_ones() -> None:
    policy = {"policy": RESOURCES["CallbackApi"]["Properties"]["DefinitionBody"]["x-amazon-apigateway-policy"]}
    assert deployed(policy) == {}
    allow, deny = deployed(policy, AllowedSourceIps="203.0.113.0/24,2001:db8::/32")["policy"]["Statement"]
    assert (allow["Effect"], deny["Effect"]) == ("Allow", "Deny")
    assert deny["Condition"] == {"NotIpAddress": {"aws:SourceIp": ["203.0.113.0/24", "2001:db8::/32"]}}


# The workflows and their alarms


def test_the_callback_machine_is_express_and_logs_its_history_for_the_console() -> None:
    machine = RESOURCES["BankAppCallback"]["Properties"]
    assert machine["Type"] == "EXPRESS"
    level = machine["Logging"]["Level"]
    assert (deployed(level), deployed(level, WorkflowLogLevel="ERROR")) == ("ALL", "ERROR")
    assert machine["Logging"]["IncludeExecutionData"] == {"Ref": "LogExecutionData"}
    name = RESOURCES["WorkflowLogs"]["Properties"]["LogGroupName"]["Fn::Sub"]
    assert name.startswith("/aws/vendedlogs/states/")


def test_the_histories_of_healing_hold_no_delivery_unless_all_histories_do() -> None:
    assert RESOURCES["BankAppHealing"]["Properties"]["Logging"]["IncludeExecutionData"] == {"Ref": "LogExecutionData"}
    # The console shows the input and output of each redrive, and all data of a Standard execution, whatever is logged.
    redrive = STATES["healing"]["RedriveEach"]
    processor = redrive["ItemProcessor"]
    assert processor["ProcessorConfig"] == {"Mode": "DISTRIBUTED", "ExecutionType": "EXPRESS"}
    assert set(redrive["ItemSelector"]) == {"requestId.$", "isManual.$", "decision.$"}
    ends = [state for state in processor["States"].values() if state.get("End")]
    shown = {"requestId.$", "status", "status.$", "attempts.$", "lastResult.$"}
    assert all(set(state["Parameters"]) <= shown for state in ends)
    assert len(ends) == 3


@pytest.mark.parametrize(("tracing", "mode"), [("true", "Active"), ("false", "PassThrough")])
def test_api_machines_and_functions_are_traced_together_or_not_at_all(tracing: str, mode: str) -> None:
    traced = {
        "api": RESOURCES["CallbackApi"]["Properties"]["TracingEnabled"],
        "machines": [RESOURCES[machine]["Properties"]["Tracing"] for machine in MACHINES.values()],
        "functions": TEMPLATE["Globals"]["Function"]["Tracing"],
    }
    assert deployed(traced, Tracing=tracing) == {
        "api": tracing,
        "machines": [{"Enabled": tracing}] * 2,
        "functions": mode,
    }
    assert not any("Tracing" in function for function in FUNCTIONS.values())


def test_healing_runs_on_a_schedule() -> None:
    machine = RESOURCES["BankAppHealing"]["Properties"]
    assert machine["Type"] == "STANDARD"
    schedule, digest = (machine["Events"][name]["Properties"] for name in ("Schedule", "Digest"))
    assert {event["Type"] for event in machine["Events"].values()} == {"ScheduleV2"}
    assert schedule["ScheduleExpression"] == {"Fn::Sub": "rate(${HealingMinutes} minutes)"}
    assert schedule["Input"] == "{}"
    assert digest["ScheduleExpression"].startswith("cron(0 8 * * ? ")
    assert json.loads(digest["Input"]) == {"digest": True}


def test_an_execution_that_cannot_report_itself_sets_off_an_alarm() -> None:
    assert {
        (alarm["Dimensions"][0]["Value"]["Ref"], alarm["MetricName"], alarm["ComparisonOperator"], alarm["Threshold"])
        for alarm in ALARMS.values()
        if alarm["Namespace"] == "AWS/States"
    } == {
        ("BankAppCallback", "ExecutionsFailed", "GreaterThanThreshold", 0),
        ("BankAppCallback", "ExecutionsTimedOut", "GreaterThanThreshold", 0),
        ("BankAppHealing", "ExecutionsFailed", "GreaterThanThreshold", 2),
    }


def test_a_callback_without_an_execution_sets_off_an_alarm_if_the_api_is_watched() -> None:
    watch = {name for name, resource in RESOURCES.items() if resource.get("Condition") == "WatchesApi"}
    assert watch == {"ApiLogs", "CallbacksNotStarted", "CallbackNotStarted"}
    metric = deployed(RESOURCES["CallbacksNotStarted"]["Properties"])
    assert metric["LogGroupName"] == deployed(RESOURCES["ApiLogs"]["Properties"])["LogGroupName"]
    (counted,) = metric["MetricTransformations"]
    alarm = deployed(ALARMS["CallbackNotStarted"])
    assert (alarm["Namespace"], alarm["MetricName"]) == (counted["MetricNamespace"], counted["MetricName"])
    assert (alarm["Statistic"], alarm["Threshold"], "Dimensions" in alarm) == ("Sum", 0, False)


def test_a_log_that_grows_sets_off_an_alarm() -> None:
    alarms = [alarm for alarm in ALARMS.values() if alarm["Namespace"] == "AWS/Logs"]
    groups = ["WorkflowLogs", "TaskLogs"]
    assert [alarm["Dimensions"] for alarm in alarms] == [
        [{"Name": "LogGroupName", "Value": {"Ref": group}}] for group in groups
    ]
    for alarm in alarms:
        assert (alarm["MetricName"], alarm["Statistic"], alarm["Period"]) == ("IncomingBytes", "Sum", 3600)
        assert alarm["Threshold"] == {"Ref": "LogBytesPerHour"}


def test_a_dispatched_payment_that_is_not_processed_sets_off_an_alarm() -> None:
    alarms = [alarm for alarm in ALARMS.values() if alarm["Namespace"] == "AWS/Lambda"]
    assert {(alarm["MetricName"], alarm["Statistic"], alarm["Threshold"]) for alarm in alarms} == {
        ("AsyncEventsDropped", "Sum", 0),
        ("Errors", "Sum", 0),
        ("Throttles", "Sum", 0),
        ("AsyncEventAge", "Maximum", 300_000),
        ("DestinationDeliveryFailures", "Sum", 0),
    }
    function = deployed(RESOURCES["BankAppCallback"]["Properties"]["DefinitionSubstitutions"])["ProcessPaidFunction"]
    for alarm in alarms:
        assert deployed(alarm)["Dimensions"] == [{"Name": "FunctionName", "Value": function}]
        assert alarm["TreatMissingData"] == "notBreaching"


def test_process_paid_belongs_to_others_and_is_not_watched_by_default() -> None:
    watch = {name for name, resource in RESOURCES.items() if resource.get("Condition") == "WatchesProcessPaid"}
    assert watch == {
        "ProcessPaidWatch",
        "ProcessPaidFailedQueue",
        "ProcessPaidFailedDeadLetters",
        "ProcessPaidNotReopened",
        "ProcessPaidUnwatched",
        "ReopenPayment",
        "ReopenPaymentRole",
    }
    others = str({name: resource for name, resource in RESOURCES.items() if name not in watch})
    others = others.replace(str(REOPENING_ROLE), "")
    assert not any(f"'{name}'" in others or f"{{{name}." in others for name in watch)
    assert TEMPLATE["Parameters"]["WatchProcessPaid"]["Default"] == "false"


def test_an_event_that_lambda_gives_up_is_sent_to_the_queue_that_reopens_payments() -> None:
    watch = RESOURCES["ProcessPaidWatch"]["Properties"]
    queue = {"Fn::GetAtt": ["ProcessPaidFailedQueue", "Arn"]}
    assert watch["DestinationConfig"] == {"OnFailure": {"Destination": queue}}
    assert deployed(watch["FunctionName"]) == deployed(ALARMS["ProcessPaidDropped"])["Dimensions"][0]["Value"]
    assert watch["Qualifier"] == "$LATEST"
    source = FUNCTIONS["ReopenPayment"]["Events"]["Failure"]
    assert (source["Type"], source["Properties"]["Queue"]) == ("SQS", queue)
    # Without it a message that fails would not be delivered again: the function reports it, and does not fail.
    assert source["Properties"]["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    (read,) = [statement for statement in statements_of("ReopenPaymentRole") if statement["Resource"] == queue]
    assert set(read["Action"]) == {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"}


def test_a_parked_delivery_is_kept_for_14_days_and_missed_after_an_hour() -> None:
    queue, dead_letters = (RESOURCES[name]["Properties"] for name in ("ParkedQueue", "ParkedDeadLetters"))
    for each in (queue, dead_letters):
        assert (each["SqsManagedSseEnabled"], each["MessageRetentionPeriod"]) == (True, 14 * 24 * 60 * 60)
    assert queue["RedrivePolicy"]["deadLetterTargetArn"] == {"Fn::GetAtt": ["ParkedDeadLetters", "Arn"]}
    # An outage of the error log must not move deliveries to the dead-letter queue.
    assert queue["RedrivePolicy"]["maxReceiveCount"] * queue["VisibilityTimeout"] >= 8 * 60 * 60
    late, unread = deployed(ALARMS["ParkedTooLong"]), deployed(ALARMS["ParkedNotUnderstood"])
    assert (late["MetricName"], late["Threshold"]) == ("ApproximateAgeOfOldestMessage", 3600)
    assert (unread["MetricName"], unread["Threshold"]) == ("ApproximateNumberOfMessagesVisible", 0)


def test_a_message_that_cannot_be_handled_is_kept_and_sets_off_an_alarm() -> None:
    queues = [RESOURCES[name]["Properties"] for name in ("ProcessPaidFailedQueue", "ProcessPaidFailedDeadLetters")]
    dead_letters = {"Fn::GetAtt": ["ProcessPaidFailedDeadLetters", "Arn"]}
    redrive_policy = queues[0]["RedrivePolicy"]
    assert redrive_policy["deadLetterTargetArn"] == dead_letters
    # A redrive that died keeps its delivery for five minutes; then another one settles it.
    assert redrive_policy["maxReceiveCount"] * queues[0]["VisibilityTimeout"] >= 3 * 5 * 60
    for queue in queues:
        assert (queue["SqsManagedSseEnabled"], queue["MessageRetentionPeriod"]) == (True, 14 * 24 * 60 * 60)
    alarm = deployed(ALARMS["ProcessPaidNotReopened"])
    assert alarm["Dimensions"] == [{"Name": "QueueName", "Value": deployed(queues[1]["QueueName"])}]
    assert (alarm["Namespace"], alarm["MetricName"], alarm["Threshold"]) == (
        "AWS/SQS",
        "ApproximateNumberOfMessagesVisible",
        0,
    )


def test_healing_that_no_longer_runs_sets_off_an_alarm_but_not_before_it_has_run() -> None:
    alarm = ALARMS["HealingStopped"]
    assert alarm["TreatMissingData"] == "missing"
    # Its period must cover at least two runs.
    assert alarm["Period"] >= 2 * 60 * TEMPLATE["Parameters"]["HealingMinutes"]["MaxValue"]


def test_an_unusable_secret_sets_off_an_alarm_while_callbacks_still_pass() -> None:
    alarm, metric = ALARMS["SecretUnusable"], RESOURCES["SecretsUnusable"]["Properties"]
    (transformation,) = metric["MetricTransformations"]
    assert (alarm["Namespace"], alarm["MetricName"]) == (
        transformation["MetricNamespace"],
        transformation["MetricName"],
    )
    assert "Dimensions" not in deployed(alarm)
    # What VerifySignature and bank_secret log is in their tests.
    assert metric["FilterPattern"] == '{ $.message = "Secret unusable" }'


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_notifies_the_topic_if_there_is_one(name: str) -> None:
    # Without runs the alarm has no data.
    actions = "InsufficientDataActions" if name == "HealingStopped" else "AlarmActions"
    assert deployed(ALARMS[name], AlarmTopicArn="topic")[actions] == ["topic"]
    assert actions not in deployed(ALARMS[name])


def test_a_metric_counts_failed_checks_by_check_and_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    (handler,) = logger.handlers
    stream = io.StringIO()
    monkeypatch.setattr(handler, "stream", stream)

    @checks.check("VerifySignature")
    def verify(_: dict[str, Any], __: object) -> None:
        raise InvalidSignature("signature: does not match")

    verify({"mode": "warn", "callback": {"orderId": "o", "paymentId": "p", "requestId": "r"}}, context())
    line = json.loads(stream.getvalue())
    metric = RESOURCES["ChecksFailed"]["Properties"]
    field, value = re.findall(r'^\{ \$\.(\w+) = "(.+)" }$', metric["FilterPattern"])[0]
    assert line[field] == value
    (transformation,) = metric["MetricTransformations"]
    dimensions = {dimension["Key"]: dimension["Value"] for dimension in transformation["Dimensions"]}
    assert {key: line[source.removeprefix("$.")] for key, source in dimensions.items()} == {
        "check": "VerifySignature",
        "mode": "warn",
    }


def test_lambda_logs_of_itself_only_what_fails_unless_the_parameter_says_more() -> None:
    logging_config = TEMPLATE["Globals"]["Function"]["LoggingConfig"]
    assert {"LogFormat": "JSON", "ApplicationLogLevel": "INFO", "SystemLogLevel": "WARN"}.items() <= deployed(
        logging_config
    ).items()
    assert deployed(logging_config, SystemLogLevel="INFO")["SystemLogLevel"] == "INFO"
    assert not any("LoggingConfig" in function for function in FUNCTIONS.values())


def test_lambda_can_read_the_level_and_the_time_of_a_tasks_line(monkeypatch: pytest.MonkeyPatch) -> None:
    (handler,) = logger.handlers
    stream = io.StringIO()
    monkeypatch.setattr(handler, "stream", stream)
    logger.warning("Check failed")
    line = json.loads(stream.getvalue())
    assert line["level"] == "WARNING"
    # RFC 3339, which Python's fromisoformat does not insist on.
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", line["timestamp"])


def test_the_libraries_log_nothing_of_an_ordinary_call(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "level", logging.INFO)
    runpy.run_path(str(callbacks.__file__))
    assert root.level == logging.WARNING
    assert logger.log_level == logging.INFO


# Data


def test_every_log_group_has_a_retention() -> None:
    groups = [r["Properties"] for r in RESOURCES.values() if r["Type"] == "AWS::Logs::LogGroup"]
    assert len(groups) == 3
    assert all(group["RetentionInDays"] == {"Ref": "LogRetentionDays"} for group in groups)


@pytest.mark.parametrize("logical_id", TABLES)
def test_a_table_outlives_its_stack_and_can_be_restored(logical_id: str) -> None:
    table = RESOURCES[logical_id]
    properties = table["Properties"]
    # A table left by a failed first deployment would block its name for the second.
    assert (table["DeletionPolicy"], table["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")
    assert properties["BillingMode"] == "PAY_PER_REQUEST"
    assert properties["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert properties["SSESpecification"] == {"SSEEnabled": True}
    assert properties["DeletionProtectionEnabled"] is True


# The keys of every table and index are compared with the models in tests/unit/test_tables.py.
def test_the_error_log_indexes_project_what_the_model_says_and_nothing_large() -> None:
    models = {"unresolved": CallbackError.unresolved, "byOrder": CallbackError.byOrder}
    for index in RESOURCES["CallbackErrorLogTable"]["Properties"]["GlobalSecondaryIndexes"]:
        projected = index["Projection"]["NonKeyAttributes"]
        assert projected == models[index["IndexName"]].Meta.projection.non_key_attributes
        assert set(projected) <= set(CallbackError.get_attributes()) - {"cause", "event"}


# Parameters and checks


def test_the_console_groups_every_parameter_once_in_the_order_of_the_file() -> None:
    groups = TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert [name for group in groups for name in group["Parameters"]] == list(TEMPLATE["Parameters"])


def test_a_mode_is_off_warn_or_enforce_and_off_by_default() -> None:
    for parameter in CHECKS.values():
        assert TEMPLATE["Parameters"][parameter]["AllowedValues"] == ["off", "warn", "enforce"]
        assert TEMPLATE["Parameters"][parameter]["Default"] == "off"


def test_a_mode_is_deployed_only_after_what_its_check_needs_has_been_read() -> None:
    ready = RESOURCES["ChecksReady"]["Properties"]
    assert RESOURCES["BankAppCallback"]["DependsOn"] == "ChecksReady"
    assert ready["ServiceToken"] == {"Fn::GetAtt": ["CheckReadiness", "Arn"]}
    substitutions = RESOURCES["BankAppCallback"]["Properties"]["DefinitionSubstitutions"]
    for name in (*CHECKS.values(), "SignatureScheme"):
        assert ready[name] == substitutions[name] == {"Ref": name}
    assert ready["Secret"] == substitutions["BankSecret"]
    assert ready["InquirySecret"] == substitutions["InquirySecret"]
    assert ready["Orders"] == {"table": substitutions["OrderTable"], "key": substitutions["OrderKey"]}
    assert ready["Payments"] == {"table": substitutions["PaymentTable"], "key": substitutions["PaymentKey"]}
    assert ready["ServiceTimeout"] > FUNCTIONS["CheckReadiness"]["Timeout"]


# The rules, as the emulator's CloudFormation evaluates them


def refusal_of(**parameters: str) -> str | None:
    """Return why a deployment with these parameters is refused before it begins, or None."""
    given = [{"Key": name, "Value": value} for name, value in (PARAMETERS | parameters).items()]
    try:
        values = cloudformation._resolve_parameters(TEMPLATE, given)
        cloudformation._check_rules_section(TEMPLATE)
        cloudformation._evaluate_rules(TEMPLATE, values, {})
    except ValueError as error:
        return str(error)
    return None


TOPIC = {"AlarmTopicArn": "arn:aws:sns:ap-southeast-1:123456789012:on-call"}
PROTECTIONS = [
    {"SignatureMode": "enforce"},
    {"InquiryMode": "enforce"},
    {"CrossCheckMode": "enforce", "PaymentRequired": "true"},
    {"AllowedSourceIps": "203.0.113.7/32,203.0.113.8/32"},
    {"AcceptUnverifiedPayments": "anyone-can-mark-orders-as-paid"},
]
NO_PROTECTIONS = [
    {},
    {"SignatureMode": "warn", "InquiryMode": "warn", "CrossCheckMode": "warn", "PaymentRequired": "true"},
    {"CrossCheckMode": "enforce"},
    {"PaymentRequired": "true"},
    {"AllowedSourceIps": "203.0.113.7/32,0.0.0.0/0"},
    {"WebAclArn": "arn"},
]


@pytest.mark.parametrize("parameters", PROTECTIONS, ids=str)
def test_a_production_that_tells_genuine_callbacks_from_others_is_deployed(parameters: dict[str, str]) -> None:
    assert refusal_of(Branch="prod", **TOPIC, **parameters) is None
    assert "needs AlarmTopicArn" in str(refusal_of(Branch="prod", **parameters))


@pytest.mark.parametrize("parameters", NO_PROTECTIONS, ids=str)
def test_a_production_in_which_anyone_can_pay_orders_is_refused(parameters: dict[str, str]) -> None:
    assert "Nothing tells the bank's callbacks from anyone else's" in str(
        refusal_of(Branch="prod", **TOPIC, **parameters)
    )
    assert refusal_of(Branch="dev", **parameters) is None


def test_the_shipped_settings_deploy_development_and_a_production_once_it_is_protected() -> None:
    settings = tomllib.loads((ROOT / "samconfig.toml").read_text())
    shipped = {
        environment: dict(
            override.split("=", 1) for override in settings[environment]["deploy"]["parameters"]["parameter_overrides"]
        )
        for environment in ("default", "prod")
    }
    assert refusal_of(**shipped["default"]) is None
    assert refusal_of(**shipped["prod"]) is not None
    assert refusal_of(**shipped["prod"], **TOPIC, **PROTECTIONS[0]) is None


# What AWS says of REST APIs: "Amazon API Gateway important notes", and what it writes itself.
@pytest.mark.parametrize(
    "header",
    [
        *("content-md5", "expect", "te", "upgrade", "host", "authorization", "user-agent", "via", "transfer-encoding"),
        *("x-amzn-trace-id", "x-amz-date", "x-forwarded-for", "cloudfront-viewer-country", "X-Signature", ""),
    ],
)
def test_a_header_that_does_not_arrive_as_sent_cannot_carry_the_signature(header: str) -> None:
    assert "SignatureHeader" in str(refusal_of(SignatureHeader=header))


@pytest.mark.parametrize("header", ["x-signature", "x-kbank-hmac", "signature", "x-amount-hmac", "tea"])
def test_any_other_header_can_carry_the_signature(header: str) -> None:
    assert refusal_of(SignatureHeader=header) is None
