import pytest

from callbacks import verdicts

CHECKS = {
    "VerifySignature": {"verdict": "passed"},
    "CrossCheckPayment": {"verdict": "failed: PaymentMismatch: userId"},
    "InquirePayment": {"verdict": "skipped"},
}
OTHERS = {"VerifySignature": "passed", "CrossCheckPayment": "failed: PaymentMismatch: userId"}


@pytest.mark.parametrize(
    ("step", "error", "inquiry"),
    [
        ("InquirePayment", "PaymentNotConfirmed", "refused: PaymentNotConfirmed"),
        ("InquirePayment", "PaymentMismatch", "refused: PaymentMismatch"),
        # The check could not be made.
        ("InquirePayment", "ServiceUnavailable", "skipped"),
        ("InquirePayment", "ConfigurationError", "skipped"),
        ("InquirePayment", "States.Timeout", "skipped"),
        # The error is another step's.
        ("InvokeProcessPaid", "PaymentConflict", "skipped"),
        ("InvokeProcessPaid", "OrderPaidTwice", "skipped"),
    ],
)
def test_a_check_has_refused_a_callback_if_it_made_the_execution_fail(step: str, error: str, inquiry: str) -> None:
    assert verdicts.of_failure(CHECKS, step, error) == OTHERS | {"InquirePayment": inquiry}


def test_a_failure_outside_the_callback_workflow_has_no_verdicts() -> None:
    assert verdicts.of_failure({}, "SettleFailure", "GivenUp") == {}


REFUSED = OTHERS | {"InquirePayment": "refused: PaymentMismatch"}


def test_a_redrive_enforces_the_checks_that_refused_its_callback() -> None:
    assert verdicts.earlier(REFUSED, is_despite=False) == {
        "checks": CHECKS | {"InquirePayment": {"verdict": "refused: PaymentMismatch"}},
        "modes": {"InquirePayment": "enforce"},
    }


def test_despite_a_refusal_todays_modes_apply_to_all_that_has_not_passed() -> None:
    assert verdicts.earlier(REFUSED, is_despite=True) == {
        "checks": CHECKS | {"InquirePayment": {"verdict": "failed: PaymentMismatch"}},
        "modes": {},
    }
