"""Whom tiers are compared with, ready to score. `against.py` says how they are named."""

from collections.abc import Mapping
from contextlib import ExitStack

from rankfleet.clients.formats import FORMATS
from rankfleet.clients.http import JsonClient
from rankfleet.clients.rankfleet import RankfleetServer
from rankfleet.clients.server import RerankServer
from rankfleet.evaluate.against import LOCAL, OWN, Against
from rankfleet.evaluate.cross_encoder import CrossEncoderProcess
from rankfleet.evaluate.rankers import ServerRanker


def rival_of(against: Against, threads: int, environment: Mapping[str, str], open: ExitStack) -> ServerRanker:
    """Asks a server for its tiers, and starts a process for a model. threads: of that process, which ends when `open`
    is closed. environment: has keys.

    Raises RankfleetError where it does not answer, and for a model that cannot be loaded.
    """
    key = environment[against.key] if against.key else None
    if against.kind == LOCAL:
        process = CrossEncoderProcess(against.address, threads)
        open.callback(process.close)
        return ServerRanker(against.name, process.identity, process)
    if against.kind == OWN:
        url = against.address + (f"#{against.model}" if against.model else "")
        server = RankfleetServer(url, key=key, key_name=against.key)
        return ServerRanker(against.name, server.identity, server)
    client = JsonClient(against.address, key=key, key_name=against.key, proxy=against.hosted)
    return ServerRanker(against.name, against.identity, RerankServer(FORMATS[against.kind], client, against.model))
