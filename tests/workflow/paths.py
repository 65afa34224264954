"""The paths through the callback workflow that several tests expect."""

VALIDATED = ["ReceiveDelivery", "IsSignatureVerified?", "ValidateCallback"]
SAVED = [*VALIDATED, "SaveCallbackRecord"]
LOOKED_UP = [*SAVED, "IsPaid?", "IsDispatched?"]
UNCHECKED = [*LOOKED_UP, "IsCrossChecked?", "IsInquired?"]
DECLINED = [*SAVED, "IsPaid?", "RespondRecorded", "Respond"]
DISPATCHED = ["InvokeProcessPaid", "ConfirmDispatch", "IsSuspicious?", "RespondDispatched", "Respond"]
PAID = [*UNCHECKED, *DISPATCHED]
DUPLICATE = [*LOOKED_UP, *DISPATCHED]
REPORTS = ["ReportFailure", "WriteErrorLog", "ReportToSentry", "SendErrorEmail", "IsLogged?", "IsRefused?"]
INVALID = [*VALIDATED, *REPORTS, "ReadValidationMessage", "RespondRefused", "Respond"]
CONFLICT = [*LOOKED_UP, "InvokeProcessPaid", *REPORTS, "ReadConflictMessage", "RespondRefused", "Respond"]
FAILED = [*REPORTS, "RespondFailure", "Respond"]
