"""How many requests may be in flight: growth in clean, saturated rounds; cuts on 429 alone, one in
a round.
"""

from dpo_video.client.concurrency import COOL_DOWN_SECONDS, AdaptiveConcurrency


def _round(limit: AdaptiveConcurrency, busiest: int) -> int:
    """Let as many replies come as are allowed, with `busiest` in flight at most; return what is
    allowed then.
    """
    limit.on_start(busiest)
    for _ in range(limit.allowed):
        limit.on_success(0)
    return limit.allowed


def test_it_doubles_from_32_while_saturated_and_never_passes_the_most():
    limit = AdaptiveConcurrency(limit=200)
    assert [limit.allowed, *(_round(limit, limit.allowed) for _ in range(4))] == [
        32,
        64,
        128,
        200,
        200,
    ]
    assert AdaptiveConcurrency(limit=5).allowed == 5


def test_it_grows_by_a_sixteenth_of_the_most_after_a_cut():
    limit = AdaptiveConcurrency(limit=320)
    limit.on_rate_limit(0.0, 0)
    assert limit.allowed == 25  # 0.8 * 32, rounded down
    assert [_round(limit, limit.allowed) for _ in range(3)] == [25, 45, 65], (
        "the round of the 429 does not grow"
    )


def test_a_round_with_slots_to_spare_does_not_grow():
    """80 % of 32 are 25.6."""
    limit = AdaptiveConcurrency(limit=100)
    assert [_round(limit, 25), _round(limit, 26)] == [32, 64]


def test_server_errors_and_timeouts_pause_growth_for_a_round_and_shrink_nothing():
    limit = AdaptiveConcurrency(limit=100)
    for _ in range(50):
        limit.on_error()
    assert limit.allowed == 32
    assert [_round(limit, 32), _round(limit, 32)] == [32, 64]


def test_after_a_round_of_replies_a_429_cuts_again_within_the_cool_down():
    """Of 10, 8 are left: 7 replies later the requests of before may still be under way, 8 later
    they are not.
    """
    limit = AdaptiveConcurrency(limit=10)
    limit.on_rate_limit(100.0, 9)
    for _ in range(7):
        limit.on_success(0)
    limit.on_rate_limit(100.1, 7)
    assert limit.allowed == 8
    limit.on_success(0)
    limit.on_rate_limit(100.2, 7)
    assert limit.allowed == 6
    limit.on_rate_limit(100.3, 5)
    assert limit.allowed == 6


def test_many_429s_cut_once_in_a_cool_down_and_never_below_one():
    limit = AdaptiveConcurrency(limit=10)
    for second in range(int(COOL_DOWN_SECONDS)):
        limit.on_rate_limit(100.0 + second, 9)
    assert limit.allowed == 8
    limit.on_rate_limit(100.0 + COOL_DOWN_SECONDS, 7)
    assert limit.allowed == 6
    for number in range(2, 50):
        limit.on_rate_limit(100.0 + number * COOL_DOWN_SECONDS, 0)
    assert limit.allowed == 1
