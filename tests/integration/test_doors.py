"""Who reaches a fleet that `rankfleet serve` runs: its listening sockets, its keys, and a tenant that floods it."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import yaml

from rankfleet.api.keys import line_of, new_key
from tests.integration.fleet import DOCUMENTS, QUERY, wait_for
from tests.serving import READY, Serving, descendants, serving

FLEET = """
tiers:
  small: {model: demo/small, quality: 0.3}
  large: {model: demo/large, quality: 0.5}
groups:
  demo: {tiers: [small, large], cpus: 0.5}
router_cpus: 0.5
slo_classes:
  usual: {slo_ms: 500, when_none_fits: refuse}
default_slo_class: usual
tenants:
  shop: {share: 0.6}
  flood: {share: 0.05}
keys: keys.txt
"""
KEYS = {tenant: new_key() for tenant in ("shop", "flood")}
LISTENING = "0A"  # state of a socket in /proc/net/tcp


class Door(NamedTuple):
    """A socket that listens. process: the beginning of the command line of what holds it."""

    address: str
    port: int
    process: str


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("doors")
    (folder / "fleet.yaml").write_text(FLEET)
    (folder / "keys.txt").write_text("".join(f"{line_of(key, tenant)}\n" for tenant, key in KEYS.items()))
    with serving(folder / "fleet.yaml", folder / "output.txt") as running:
        assert READY in running.wait_for(READY), running.output.read_text()
        yield running


@pytest.fixture
def http(fleet: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{fleet.port}", timeout=60, trust_env=False) as client:
        yield client


def bearer(tenant: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[tenant]}"}


def doors(pids: set[int]) -> set[Door]:
    """The TCP sockets on which these processes listen."""
    holders: dict[str, int] = {}
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                holders.setdefault(os.readlink(link), pid)
            except OSError:  # closed meanwhile
                continue
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTENING and (pid := holders.get(f"socket:[{inode}]")) is not None:
                words, port = local.split(":")
                raw = b"".join(bytes.fromhex(words[i : i + 8])[::-1] for i in range(0, len(words), 8))
                title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                found.add(Door(socket.inet_ntop(family, raw), int(port, 16), title[:200]))
    return found
