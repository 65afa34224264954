"""The id of a delivery's first request, and the names of the executions that redrive it."""

import re

MAX_BASE_CHARACTERS = 60

# The lookbehind keeps the id of a bare "-redrive-1" from becoming empty, which would select every due failure.
REDRIVE_SUFFIX = re.compile(r"(?<=.)-redrive-[0-9]+\Z")


def execution_name(request_id: str, attempt: float) -> str:
    """Return the name of a redrive's execution; a search for the request id finds it beside the first execution."""
    return f"{re.sub('[^A-Za-z0-9_-]', '-', request_id)[:MAX_BASE_CHARACTERS]}-redrive-{attempt}"


def first_request_id(text: str) -> str:
    """Return the id of the first request, given that id, API Gateway's padded form of it, or a redrive's name."""
    return REDRIVE_SUFFIX.sub("", text.rstrip("=") or text)
