"""The search for a contender's best batch size."""

from collections.abc import Callable, Sequence

SIZES = {"cpu": (1, 2, 4, 8, 16, 32), "cuda": (8, 16, 32, 64, 128, 256)}
TOO_SLOW = 1.5  # times the fastest pass so far; such sizes get no further passes
MAX_PASSES = 3
MAX_S = 15.0  # no further passes after this time: long passes vary little


def best_batch(time_pass: Callable[[int], float], sizes: Sequence[int]) -> tuple[int, dict[int, float]]:
    """The batch size with the fastest pass over all pairs, and the seconds of the fastest pass of each size tried.

    time_pass: seconds of a pass at a size. Sizes are tried upwards until two in a row are too slow: padding grows with
    the size, so larger ones are slower still. The others get further passes.
    """
    seconds: dict[int, float] = {}
    spent, slow_in_a_row = 0.0, 0
    for size in sorted(sizes):
        seconds[size] = time_pass(size)
        spent += seconds[size]
        slow_in_a_row = slow_in_a_row + 1 if seconds[size] > TOO_SLOW * min(seconds.values()) else 0
        if slow_in_a_row == 2:
            break
    for _ in range(MAX_PASSES - 1):
        for size in [size for size, s in seconds.items() if s <= TOO_SLOW * min(seconds.values())]:
            if spent > MAX_S:
                break
            again = time_pass(size)
            spent += again
            seconds[size] = min(seconds[size], again)
    return min(seconds, key=seconds.__getitem__), seconds
