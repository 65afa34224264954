"""The errors that a task may raise; their class names are what `ErrorEquals` in the state machine says."""


class InvalidCallback(ValueError):
    """The callback breaks a rule; the message names each field and what is wrong, and goes to the caller as it is."""


class PaymentConflict(Exception):
    """The payment was delivered before with another amount or for another user; a retry does not help."""


class DispatchInProgress(Exception):
    """Another delivery of the same payment is being dispatched at this moment; a moment later its result is there."""


class ServiceUnavailable(Exception):
    """A service that we call throttles, fails or does not answer; the same call may succeed a moment later."""


class ConfigurationError(RuntimeError):
    """A setting that a task cannot work without is missing; a retry does not help."""
