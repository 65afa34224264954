"""The paths through the callback workflow that several tests expect."""

VALIDATED = ["ReceiveDelivery", "IsSignatureVerified?", "ValidateCallback"]
SAVED = [*VALIDATED, "SaveCallbackRecord"]
UNCHECKED = [*SAVED, "IsPaid?", "IsCrossChecked?", "IsInquired?"]
DECLINED = [*SAVED, "IsPaid?", "RespondRecorded", "Respond"]
PAID = [*UNCHECKED, "InvokeProcessPaid", "ConfirmDispatch", "IsSuspicious?", "RespondDispatched", "Respond"]
REPORTS = ["ReportFailure", "WriteErrorLog", "ReportToSentry", "SendErrorEmail", "IsRefused?"]
INVALID = [*VALIDATED, *REPORTS, "ReadValidationMessage", "RespondRefused", "Respond"]
CONFLICT = [*UNCHECKED, "InvokeProcessPaid", *REPORTS, "ReadConflictMessage", "RespondRefused", "Respond"]
FAILED = [*REPORTS, "RespondFailure", "Respond"]
