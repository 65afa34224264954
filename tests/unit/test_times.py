from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from callbacks import model, times

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)

# A day from either end of the calendar, so that every moment exists in every time zone.
SPAN = (datetime(9999, 12, 30, tzinfo=UTC) - datetime(1, 1, 2, tzinfo=UTC)) // timedelta(microseconds=1)
moments = st.builds(
    lambda passed, offset: (datetime(1, 1, 2, tzinfo=UTC) + timedelta(microseconds=passed)).astimezone(
        timezone(timedelta(minutes=offset))
    ),
    st.integers(0, SPAN),
    st.integers(-14 * 60, 14 * 60),
)


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 11, 22, 10, tzinfo=UTC), "2026-11-22T10:00:00.000Z"),
        (datetime(2026, 11, 22, 10, 0, 0, 999_999, tzinfo=UTC), "2026-11-22T10:00:00.999Z"),
        (datetime(2026, 11, 22, 17, tzinfo=timezone(timedelta(hours=7))), "2026-11-22T10:00:00.000Z"),
        (datetime(2026, 11, 22, 23, 30, tzinfo=timezone(-timedelta(hours=1))), "2026-11-23T00:30:00.000Z"),
        (datetime(1, 2, 3, tzinfo=UTC), "0001-02-03T00:00:00.000Z"),
    ],
)
def test_a_time_is_formatted_in_utc_with_milliseconds(moment: datetime, text: str) -> None:
    assert times.iso(moment) == text


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1970-01-01T00:00:00.000Z", 0),
        ("1970-01-01T00:00:00.001Z", 1),
        ("1969-12-31T23:59:59.999Z", -1),
        ("2026-11-22T10:00:00.009Z", 1795341600009),
        # As a float it is slightly less.
        ("2038-05-24T01:38:01.930Z", 2158277881930),
    ],
)
def test_a_time_is_read_in_milliseconds_since_1970(text: str, milliseconds: int) -> None:
    assert times.milliseconds(text) == milliseconds


@given(moments)
@example(datetime(2026, 11, 22, 10, 0, 0, 1_999, tzinfo=UTC))
@example(datetime(9999, 12, 29, 23, 59, 59, 999_999, tzinfo=UTC))
def test_a_formatted_time_is_read_back_to_the_millisecond(moment: datetime) -> None:
    assert times.milliseconds(times.iso(moment)) == (moment - EPOCH) // MILLISECOND


# Until 2242, as model.received_at reads them.
@given(st.integers(0, 2**33 * 1000 - 1))
@example(1795341600009)
def test_the_time_of_receipt_survives_a_redrive(milliseconds: int) -> None:
    text = model.received_at({"receivedAt": milliseconds}, "")
    assert model.received_at({"receivedAt": times.milliseconds(text)}, "") == text


@given(moments, moments)
@example(datetime(999, 12, 31, tzinfo=UTC), datetime(1000, 1, 1, tzinfo=UTC))
def test_text_sorts_as_time_does(first: datetime, second: datetime) -> None:
    one, other = times.iso(first), times.iso(second)
    assert (one < other) == ((first - EPOCH) // MILLISECOND < (second - EPOCH) // MILLISECOND)
    assert len(one) == len(other) == len("2026-11-22T10:00:00.000Z")


def test_now_is_the_current_time_in_utc() -> None:
    before = datetime.now(UTC)
    now = times.now()
    assert before <= now <= datetime.now(UTC)
    assert now.tzinfo is UTC
