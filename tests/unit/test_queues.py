from collections import Counter

import pytest

from callbacks import queues
from callbacks.queues import SHARDS, Lane

REQUEST_IDS = [f"request-{number}" for number in range(800)]


def test_deliveries_spread_evenly_over_all_shards_of_their_channel() -> None:
    count = Counter(queues.shard_of("BankApp", request_id) for request_id in REQUEST_IDS)
    assert sorted(count) == queues.shards_of("BankApp")
    assert max(count.values()) < 2 * len(REQUEST_IDS) / SHARDS


# A record or failure that is stored keeps its shard: another hash would not find it.
def test_the_shard_of_a_delivery_never_changes() -> None:
    assert queues.shard_of("BankApp", "8f7e6d5c") == "BankApp#3"
    assert queues.shard_of("Another", "ก#1") == "Another#3"


@pytest.mark.parametrize("lane", Lane)
def test_a_failure_waits_in_one_of_its_lanes_queues(lane: Lane) -> None:
    found = {queues.queue_of("BankApp", lane, request_id) for request_id in REQUEST_IDS}
    assert found == set(queues.queues_of("BankApp", lane))
    assert {queues.lane_of(queue) for queue in found} == {lane}


def test_no_queue_belongs_to_two_lanes_or_channels() -> None:
    everything = [
        queue for channel in ("BankApp", "Another") for lane in Lane for queue in queues.queues_of(channel, lane)
    ]
    assert len(set(everything)) == len(everything) == 2 * len(Lane) * SHARDS


@pytest.mark.parametrize("queue", [None, ""])
def test_a_failure_without_a_queue_waits_in_no_lane(queue: str | None) -> None:
    assert queues.lane_of(queue) is None
