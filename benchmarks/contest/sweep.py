"""Which batch size is a contender's best."""

from collections.abc import Callable, Sequence

SIZES = {"cpu": (1, 2, 4, 8, 16, 32), "cuda": (8, 16, 32, 64, 128, 256)}
HOPELESS = 1.5  # times the fastest pass so far
MOST_PASSES = 3
MOST_S = 15.0  # after so much, no more passes: where one takes long, its time is steady


def best_batch(time_pass: Callable[[int], float], sizes: Sequence[int]) -> tuple[int, dict[int, float]]:
    """The size whose fastest pass over all the pairs was fastest, and the seconds of that pass for each size tried.

    time_pass: seconds of a pass at a size. Sizes are tried upwards and given up after two hopeless ones in a row:
    padding grows with the size, so what follows is slower still. Those that are not hopeless get further passes.
    """
    seconds: dict[int, float] = {}
    spent, slow_in_a_row = 0.0, 0
    for size in sorted(sizes):
        seconds[size] = time_pass(size)
        spent += seconds[size]
        slow_in_a_row = slow_in_a_row + 1 if seconds[size] > HOPELESS * min(seconds.values()) else 0
        if slow_in_a_row == 2:
            break
    for _ in range(MOST_PASSES - 1):
        for size in [size for size, s in seconds.items() if s <= HOPELESS * min(seconds.values())]:
            if spent > MOST_S:
                break
            again = time_pass(size)
            spent += again
            seconds[size] = min(seconds[size], again)
    return min(seconds, key=seconds.__getitem__), seconds
