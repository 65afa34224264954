"""How strict a check is."""

from enum import StrEnum


class Mode(StrEnum):
    """Whether a failed check is only recorded, or refuses the callback. A check that is off does not run at all."""

    WARN = "warn"
    ENFORCE = "enforce"
