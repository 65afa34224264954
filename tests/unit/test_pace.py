import pytest

from tests.unit.kit import Load, Task

RESOLVED, OPEN, GIVEN_UP, SKIPPED, UNCONFIRMED = "resolved", "open", "given up", "skipped", "unconfirmed"
NOT_STARTED, LEFT = "not started", "left for the next run"


@pytest.fixture
def pace(load: Load) -> Task:
    return load("callbacks.pace", HEALING_CONCURRENCY="60")


@pytest.mark.parametrize(
    ("current", "statuses", "following"),
    [
        # The first page.
        (0, [], 8),
        (8, [RESOLVED] * 40, 16),
        (32, [RESOLVED] * 160, 60),
        (60, [RESOLVED] * 300, 60),
        # A few may fail, for reasons of their own.
        (8, [RESOLVED] * 36 + [OPEN] * 4, 16),
        (8, [RESOLVED] * 35 + [OPEN] * 5, 8),
        (8, [RESOLVED] * 30 + [OPEN] * 10, 8),
        (8, [RESOLVED] * 29 + [OPEN] * 11, 4),
        (9, [OPEN] * 45, 4),
        (1, [OPEN] * 5, 1),
        # Step Functions or Lambda has no room.
        (8, [RESOLVED] * 29 + [NOT_STARTED] * 6 + [LEFT] * 5, 4),
        # They had room.
        (8, [GIVEN_UP] * 40, 16),
        # Another run has them.
        (8, [SKIPPED] * 40, 8),
        (8, [SKIPPED] * 36 + [OPEN] * 2 + [RESOLVED] * 2, 4),
        # Anybody can cause them.
        (8, [UNCONFIRMED] * 40, 8),
        (8, [UNCONFIRMED] * 36 + [OPEN] * 2 + [RESOLVED] * 2, 4),
    ],
)
def test_the_pace_follows_how_the_redrives_of_the_last_page_ended(
    pace: Task, current: int, statuses: list[str], following: int
) -> None:
    assert pace.next_concurrency(current, statuses) == following


def test_the_first_page_keeps_the_limit_as_well(load: Load) -> None:
    assert load("callbacks.pace", HEALING_CONCURRENCY="3").next_concurrency(0, []) == 3


@pytest.mark.parametrize(("concurrency", "size"), [(1, 5), (8, 40), (60, 300), (80, 400), (200, 400)])
def test_a_page_has_five_failures_for_each_place_up_to_what_a_state_holds(
    pace: Task, concurrency: int, size: int
) -> None:
    assert pace.page_size(concurrency) == size


@pytest.mark.parametrize(("size", "shares"), [(400, (80, 16)), (300, (60, 16)), (40, (8, 4)), (5, (1, 1)), (1, (1, 1))])
def test_a_page_always_has_room_for_the_newest_and_for_few_that_are_unconfirmed(
    pace: Task, size: int, shares: tuple[int, int]
) -> None:
    assert pace.shares(size) == shares
