"""A deployment that cannot work fails, and leaves the deployed version running."""

from typing import Any

import pytest
from botocore.exceptions import ClientError

from local.stack import STACK_NAME
from tests.e2e.conftest import Local, MakeBody, wait_until

WRONG: dict[str, dict[str, str]] = {
    "SignatureMode": {"BankSecretName": "nobody"},
    "CrossCheckMode": {"OrderTableName": "nobodys-orders"},
    "InquiryMode": {},
}
MISSING = {
    "SignatureMode": "VerifySignature, secret nobody: ",
    "CrossCheckMode": "CrossCheckPayment, table nobodys-orders with key orderId: ",
    # The local stack's secret has keys, but not the bank's address.
    "InquiryMode": "InquirePayment, secret kbank-local: The secret needs inquiry with",
}


def update(local: Local, **parameters: str) -> str:
    """Update the stack with these parameters; return its final status."""
    cloudformation = local.stack.client("cloudformation")
    (stack,) = cloudformation.describe_stacks(StackName=STACK_NAME)["Stacks"]
    kept = [
        {"ParameterKey": given["ParameterKey"], "UsePreviousValue": True}
        for given in stack["Parameters"]
        if given["ParameterKey"] not in parameters
    ]
    changed = [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]
    cloudformation.update_stack(
        StackName=STACK_NAME,
        UsePreviousTemplate=True,
        Parameters=kept + changed,
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    wait_until(lambda: not status_of(cloudformation).endswith("_IN_PROGRESS"), 90)
    return status_of(cloudformation)


def status_of(cloudformation: Any) -> str:
    (stack,) = cloudformation.describe_stacks(StackName=STACK_NAME)["Stacks"]
    status: str = stack["StackStatus"]
    return status


@pytest.mark.parametrize("mode", WRONG)
def test_a_check_without_its_prerequisites_is_not_deployed(local: Local, make_body: MakeBody, mode: str) -> None:
    stepfunctions = local.stack.client("stepfunctions")
    machine_arn = local.stack.outputs["StateMachineArn"]
    before = stepfunctions.describe_state_machine(stateMachineArn=machine_arn)

    assert update(local, **{mode: "enforce"}, **WRONG[mode]) == "UPDATE_ROLLBACK_COMPLETE"

    events = local.stack.client("cloudformation").describe_stack_events(StackName=STACK_NAME)["StackEvents"]
    reasons = [
        event.get("ResourceStatusReason", "")
        for event in events
        if (event["LogicalResourceId"], event["ResourceStatus"]) == ("ChecksReady", "UPDATE_FAILED")
    ]
    assert any(MISSING[mode] in reason for reason in reasons), reasons
    after = stepfunctions.describe_state_machine(stateMachineArn=machine_arn)
    assert after["definition"] == before["definition"]
    assert local.post(make_body()).status == 200


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"Branch": "prod", "AlarmTopicArn": "topic"}, "Nothing tells the bank's callbacks from anyone else's"),
        ({"SignatureHeader": "content-md5"}, "Choose another one"),
    ],
)
def test_a_rule_refuses_a_deployment_before_it_begins(local: Local, parameters: dict[str, str], reason: str) -> None:
    with pytest.raises(ClientError, match=reason):
        update(local, **parameters)
