"""The errors a task can raise. Their class names are what `Retry` and `Catch` in the state machines name.

error                    raised by              what it means, and what happens then
-----                    ---------              -----------------------------------
OperatorDecides                                 a redrive cannot help: an operator decides
+ Refusal                                       the callback itself is wrong
  + InvalidCallback      ValidateCallback       the message is the answer's `error`
  + InvalidSignature     VerifySignature        the message is the answer's `error`
  + PaymentConflict      InvokeProcessPaid      the message is the answer's `error`
  + PaymentMismatch      CrossCheckPayment      retried once, so that the answer takes as long as for an unknown
                                                order; it does not say why
                         InquirePayment         the answer does not say why
+ OrderPaidTwice         InvokeProcessPaid      held until an operator accepts or dismisses it
+ DispatchUndecided      InvokeProcessPaid      the e-mail says how often the payment may have been dispatched,
                                                or that nothing shows it any more
Unconfirmed                                     not confirmed yet: redriven by healing
+ OrderNotFound          CrossCheckPayment      retried once first
+ PaymentNotFound        CrossCheckPayment      retried once first
+ PaymentNotConfirmed    InquirePayment
DispatchInProgress       InvokeProcessPaid      retried once, then redriven by healing
                         ReopenPayment          the queue delivers the message again
DispatchUncertain        InvokeProcessPaid      redriven by healing, which repeats the dispatch at most
                                                MAX_DISPATCH_REPEATS times in the payment's life
                         ReopenPayment          the message ends in the dead-letter queue
ServiceUnavailable       any task that calls    retried where time allows, then redriven by healing
ConfigurationError       any task               redriven by healing; every callback fails until it is fixed
InvalidSelection         CollectUndispatched,   the healing execution fails with the message
                         FindFailures

No task raises DispatchUnconfirmed, ProcessPaidFailed and GivenUp: CollectUndispatched, ReopenPayment and the healing
workflow report them.
"""


class OperatorDecides(Exception):
    """A redrive cannot help; an operator decides. The message says why and never contains a secret."""


class Refusal(OperatorDecides):
    """The callback itself is wrong."""


class InvalidCallback(Refusal):
    """The callback breaks a rule; the message names each invalid field and its problem."""


class InvalidSignature(Refusal):
    """The callback is unsigned, signed by someone other than the bank, or signed too long ago."""


class PaymentConflict(Refusal):
    """The payment was delivered before with another amount or user."""


class PaymentMismatch(Refusal):
    """The callback contradicts the order, the payment on record, or the bank."""


class OrderPaidTwice(OperatorDecides):
    """Another payment of the order is or may be dispatched; the message names it."""


class DispatchUndecided(OperatorDecides):
    """The payment may have been dispatched, and no repeat is allowed; the message says why."""


class Unconfirmed(Exception):
    """The callback cannot be confirmed yet; later it may be."""


class OrderNotFound(Unconfirmed):
    """The order does not exist yet: the callback may have arrived first."""


class PaymentNotFound(Unconfirmed):
    """The payment is not in the master payment table yet, but has to be."""


class PaymentNotConfirmed(Unconfirmed):
    """The bank does not confirm the payment."""


class DispatchInProgress(Exception):
    """Another delivery of the same payment is being dispatched; its result is known a moment later."""


class DispatchUncertain(Exception):
    """Process-paid may have been invoked: the answer to the invoke was lost."""


class ServiceUnavailable(Exception):
    """A service throttled the call, failed or did not answer; the same call may succeed a moment later."""


class ConfigurationError(Exception):
    """A required setting is missing or wrong; an immediate retry does not help."""


class InvalidSelection(Exception):
    """The healing workflow's input is invalid; the message says what is wrong with it."""


def names_of(base: type[Exception]) -> set[str]:
    """Return the names of an error and of the errors that are one."""
    return {name for name, error in globals().items() if isinstance(error, type) and issubclass(error, base)}
