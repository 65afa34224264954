"""Times as we write them: UTC, ISO 8601, of fixed width, so that text sorts as time does."""

from datetime import UTC, datetime


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


def iso(moment: datetime) -> str:
    """Return a time with its milliseconds as text, such as 2026-11-22T10:00:00.000Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def milliseconds(text: str) -> int:
    """Return the milliseconds since 1970 of a time that `iso` wrote."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)
