"""The alert windows that a container remembers.

A window begins with the report of a failure; until it ends, further failures of the kind are not reported. The memory
keeps a burst from being reported, or asked about, again and again, also while the table of the windows is down.
"""

import time
from typing import NamedTuple

from callbacks import config
from callbacks.failure import Kind

WINDOW_SECONDS = int(config.required("ALERT_WINDOW_MINUTES")) * 60


class Window(NamedTuple):
    """When a window ends, in seconds since 1970, and which failure opened it."""

    ends_at: int
    opened_by: str


class Windows:
    """The windows of one report, by kind of failure."""

    def __init__(self) -> None:
        self._known: dict[Kind, Window] = {}

    def find(self, kind: Kind) -> Window | None:
        """Return the open window of a kind, if this container knows one."""
        window = self._known.get(kind)
        return window if window and now() < window.ends_at else None

    def remember(self, kind: Kind, window: Window) -> None:
        """Remember the window of a kind instead of an earlier one."""
        self._known[kind] = window

    def forget(self, kind: Kind) -> None:
        """Forget the window of a kind."""
        self._known.pop(kind, None)

    def clear(self) -> None:
        """Forget all windows, like a new container."""
        self._known.clear()


def now() -> int:
    """Return the seconds since 1970."""
    return int(time.time())


def begin(opened_by: str) -> Window:
    """Return a window that begins now."""
    return Window(now() + WINDOW_SECONDS, opened_by)
