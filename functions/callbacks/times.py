"""Times as stored and logged: UTC, ISO 8601, fixed width, so that text order is time order."""

from datetime import UTC, datetime, timedelta


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def iso(moment: datetime) -> str:
    """Return a time as text with milliseconds, such as 2026-11-22T10:00:00.000Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def milliseconds(text: str) -> int:
    """Return the milliseconds since 1970 of a time that `iso` wrote."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def expiration(moment: datetime, days: int) -> int:
    """Return the time so many days after a moment as DynamoDB's time to live counts it: in seconds since 1970."""
    return int((moment + timedelta(days=days)).timestamp())
