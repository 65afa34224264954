"""The errors that a task may raise; their class names are what `ErrorEquals` in the state machine says."""


class Refusal(Exception):
    """What is wrong is the callback; running it again does not help. The message says what, but never a secret."""


class InvalidCallback(Refusal):
    """The callback breaks a rule; the message names each field and what is wrong."""


class PaymentConflict(Refusal):
    """The payment was delivered before with another amount or for another user."""


class InvalidSignature(Refusal):
    """The callback is not signed, or not by the bank, or not now."""


class PaymentMismatch(Refusal):
    """The callback contradicts what we, or the bank, know of the order and the payment."""


class Unconfirmed(Exception):
    """What the callback says cannot be confirmed now; later it may be."""


class OrderNotFound(Unconfirmed):
    """The order is not there: the callback may be faster than it."""


class PaymentNotConfirmed(Unconfirmed):
    """The bank does not say that the payment was made."""


class DispatchInProgress(Exception):
    """Another delivery of the same payment is being dispatched at this moment; a moment later its result is there."""


class ServiceUnavailable(Exception):
    """A service that we call throttles, fails or does not answer; the same call may succeed a moment later."""


class InvalidSelection(Exception):
    """What a person asked the healing workflow to run again is not understood; the message says what is."""


class ConfigurationError(RuntimeError):
    """A setting that a task cannot work without is missing; a retry does not help."""
