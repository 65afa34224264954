"""The paths through the state machine that several tests speak of."""

DECLINED = ["ValidateCallback", "SaveCallbackRecord", "IsPaid?", "RespondRecorded", "Respond"]
PAID = ["ValidateCallback", "SaveCallbackRecord", "IsPaid?", "InvokeProcessPaid", "RespondRecorded", "Respond"]
REPORTS = ["ReportFailure", "WriteErrorLog", "ReportToSentry", "SendErrorEmail", "IsInvalid?"]
INVALID = ["ValidateCallback", *REPORTS, "ReadValidationMessage", "RespondInvalid", "Respond"]
FAILED = [*REPORTS, "RespondFailure", "Respond"]
