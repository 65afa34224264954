"""The paths through the callback workflow that several tests expect."""

VALIDATED = ["ReceiveDelivery", "IsSignatureVerified?", "ValidateCallback"]
SAVED = [*VALIDATED, "SaveCallbackRecord"]
LOOKED_UP = [*SAVED, "IsPaid?"]
DECLINED = [*LOOKED_UP, "RespondRecorded", "Respond"]
DISPATCHED = ["InvokeProcessPaid", "IsSettled?", "RespondDispatched"]
PAID = [*LOOKED_UP, *DISPATCHED]
CONFIRMED_LATER = [*PAID[:-1], "ConfirmDispatch", PAID[-1]]
REPORTS = ["ReportFailure", "WriteErrorLog", "ReportToSentry", "SendErrorEmail", "IsLogged?", "IsRefused?"]
INVALID = [*VALIDATED, *REPORTS, "ReadValidationMessage", "RespondRefused", "Respond"]
CONFLICT = [*LOOKED_UP, "InvokeProcessPaid", "MayConflictBeTold?", *REPORTS]
CONFLICT += ["ReadConflictMessage", "RespondRefused", "Respond"]
FAILED = [*REPORTS, "RespondFailure", "Respond"]
