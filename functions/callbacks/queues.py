"""Where unresolved failures and undispatched records wait: in lanes, each split into shards.

A partition of an index takes 1,000 write units a second, and a throttled index throttles its table. One key per channel
would reach that at some 500 failures a second; each of SHARDS keys takes its share of them.
"""

from enum import StrEnum
from zlib import crc32

SHARDS = 8


class Lane(StrEnum):
    """HEALING is redriven automatically, UNCONFIRMED too, but with few attempts and a small share of each page.

    UNCONFIRMED has what anybody can cause: an unsigned callback for an order that does not exist, or for a payment that
    the bank does not know. OPERATOR waits for a decision, GIVEN_UP failed at its last attempt.
    """

    HEALING = "healing"
    UNCONFIRMED = "unconfirmed"
    OPERATOR = "operator"
    GIVEN_UP = "given up"


AUTOMATIC = (Lane.HEALING, Lane.UNCONFIRMED)


def shard_of(channel: str, request_id: str) -> str:
    """Return the shard of a delivery in the index of undispatched records."""
    return f"{channel}#{crc32(request_id.encode()) % SHARDS}"


def shards_of(channel: str) -> list[str]:
    """Return all shards of a channel."""
    return [f"{channel}#{shard}" for shard in range(SHARDS)]


def queue_of(channel: str, lane: str, request_id: str) -> str:
    """Return the queue of a failure: its shard of the lane."""
    return f"{shard_of(channel, request_id)}#{lane}"


def queues_of(channel: str, lane: str) -> list[str]:
    """Return all queues of a lane."""
    return [f"{shard}#{lane}" for shard in shards_of(channel)]


def lane_of(queue: str | None) -> Lane | None:
    """Return the lane of a queue, or None for a failure that waits nowhere."""
    return Lane(queue.rpartition("#")[2]) if queue else None
