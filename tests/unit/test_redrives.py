from datetime import UTC, datetime, timedelta

import pytest

from tests.unit.kit import Load

MOMENT = datetime(2026, 11, 22, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("delay", "attempts", "minutes"),
    [
        ("5", 0, 5),
        ("5", 1, 10),
        ("5", 2, 20),
        ("5", 7, 640),
        ("5", 8, 720),
        ("5", 9, 720),
        ("5", 20, 720),
        ("1", 0, 1),
        ("1", 9, 512),
        ("1", 10, 720),
        ("720", 0, 720),
        ("720", 1, 720),
        ("720", 20, 720),
        ("0", 0, 0),
        ("0", 20, 0),
    ],
)
def test_the_pause_doubles_with_each_attempt_up_to_twelve_hours(
    load: Load, delay: str, attempts: int, minutes: int
) -> None:
    redrives = load("callbacks.redrives", REDRIVE_DELAY_MINUTES=delay)
    assert redrives.due_after(attempts, MOMENT) - MOMENT == timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("lane", "allowed", "attempt", "is_last"),
    [
        ("healing", "8", 1, False),
        ("healing", "8", 7, False),
        ("healing", "8", 8, True),
        ("healing", "8", 9, True),
        ("healing", "1", 1, True),
        ("unconfirmed", "8", 2, False),
        ("unconfirmed", "8", 3, True),
        ("unconfirmed", "1", 2, False),
    ],
)
def test_the_last_attempt_is_the_one_that_the_settings_name_for_the_lane(
    load: Load, lane: str, allowed: str, attempt: int, is_last: bool
) -> None:
    redrives = load("callbacks.redrives", REDRIVE_ATTEMPTS=allowed, UNCONFIRMED_ATTEMPTS="3")
    assert redrives.is_last(attempt, lane) is is_last


@pytest.mark.parametrize(
    ("body", "is_too_large"),
    [
        # The longest valid bodies, in the character that grows most and in one of three bytes.
        ("\\" * 8_192, False),
        ("\u0e01" * 2_730, False),
        ("x" * 111_900, False),
        ("x" * 112_001, True),
        ("\\" * 32_768, True),
        ("\ud83c" * 10_922, False),
        ("\ud83c" * 32_769, True),
    ],
)
def test_a_delivery_is_too_large_if_a_state_cannot_hold_it_twice(load: Load, body: str, is_too_large: bool) -> None:
    assert load("callbacks.redrives").is_too_large({"body": body}) is is_too_large
