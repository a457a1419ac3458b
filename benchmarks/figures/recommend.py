"""What `rankfleet recommend` says by the published figures that ship with it."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from benchmarks.figures.simulated import CANDIDATES, TOKENS

from rankfleet.bench.tables import markdown
from rankfleet.recommend import picture
from rankfleet.recommend.choice import Goal, choose
from rankfleet.recommend.figures import figures_of
from rankfleet.recommend.words import Recommendation, table_of

BATCH_TOKENS = 65_536  # of configs/gpu.yaml, the fleet file that the command takes for published figures


@cache
def published() -> dict[str, Any]:
    """The JSON object of `rankfleet recommend` without --from. Not to be changed."""
    figures, models = figures_of(None, ranked=False)
    figures = figures.timed(models, CANDIDATES, TOKENS, {"": BATCH_TOKENS})
    return Recommendation(figures, choose(figures.options, Goal())).to_json()


def drawn() -> dict[str, Any]:
    """What the picture is drawn from, and by which code."""
    return {"figures": published(), "code": inspect.getsource(picture.fill)}


def table() -> str:
    header, rows = table_of(published()["options"])
    return f"{markdown(header, rows)}\n\n> {published()['paragraph']}"


FIGURES: dict[str, Callable[[], str]] = {"recommend-published": table}
