"""The paths through the state machine that several tests speak of."""

VALIDATED = ["ReceiveDelivery", "ValidateCallback"]
SAVED = [*VALIDATED, "SaveCallbackRecord"]
DECLINED = [*SAVED, "IsPaid?", "RespondRecorded", "Respond"]
PAID = [*SAVED, "IsPaid?", "InvokeProcessPaid", "ConfirmDispatch", "RespondDispatched", "Respond"]
REPORTS = ["ReportFailure", "WriteErrorLog", "ReportToSentry", "SendErrorEmail", "IsRefused?"]
INVALID = [*VALIDATED, *REPORTS, "ReadValidationMessage", "RespondRefused", "Respond"]
CONFLICT = [
    *SAVED,
    "IsPaid?",
    "InvokeProcessPaid",
    *REPORTS,
    "ReadConflictMessage",
    "RespondRefused",
    "Respond",
]
FAILED = [*REPORTS, "RespondFailure", "Respond"]
