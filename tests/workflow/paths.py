"""The paths through the state machine that several tests speak of."""

VALIDATED = ["ReceiveDelivery", "ValidateCallback"]
SAVED = [*VALIDATED, "SaveCallbackRecord"]
DECLINED = [*SAVED, "IsPaid?", "RespondRecorded", "Respond"]
PAID = [*SAVED, "IsPaid?", "InvokeProcessPaid", "RespondRecorded", "Respond"]
REPORTS = ["ReportFailure", "WriteErrorLog", "ReportToSentry", "SendErrorEmail", "IsInvalid?"]
INVALID = [*VALIDATED, *REPORTS, "ReadValidationMessage", "RespondInvalid", "Respond"]
FAILED = [*REPORTS, "RespondFailure", "Respond"]
