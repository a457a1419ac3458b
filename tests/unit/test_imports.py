"""What is not imported where it is not needed: each such import takes a second or more of a start."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import rankfleet.cli, rankfleet.cli.serve, rankfleet.cli.rank", "torch"),
        ("import rankfleet.cluster.launch", "ray"),
        ("import rankfleet.cluster.launch", "torch"),
        ("import rankfleet.cluster.build", "torch"),  # in the process that builds the application
        (
            "from rankfleet.engine.checkpoint.files import find_checkpoint\n"
            "from rankfleet.engine.runtime.checkpoint_checks import check_checkpoint\n"
            "check_checkpoint(find_checkpoint('demo/small'))",
            "torch._dynamo",
        ),
    ],
    ids=["command line", "launch without Ray", "launch without PyTorch", "deployments", "check"],
)
def test_what_takes_long_is_imported_when_it_is_needed(code: str, absent: str) -> None:
    shown = f"{code}\nimport sys; print({absent!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
