"""Whom the tiers are compared with, as `--against` names it.

    FORMAT:URL[#MODEL]         a server that speaks a wire format, at its base URL
    cohere:MODEL               a hosted service, with the key from the environment; also jina and voyage
    sentence-transformers:ID   a cross-encoder, a folder or hub id, which Sentence Transformers runs
    URL[#TIER]                 a Rankfleet server

and behind commas: name=, key= (the environment variable with the key), usd_per_1000_searches=, usd_per_million_tokens=,
usd_per_hour=.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rankfleet.clients.formats import FORMATS
from rankfleet.core.errors import ConfigError

LOCAL, OWN = "sentence-transformers", "rankfleet"
HOSTED = [name for name, format in FORMATS.items() if format.hosted]
PRICES = ("usd_per_1000_searches", "usd_per_million_tokens", "usd_per_hour")
OPTIONS = ("name", "key", *PRICES)
BETWEEN_STAGES = " >,"  # what a plan's name is made of, so that no name may have it


@dataclass(frozen=True)
class Price:
    """In US dollars; 0 for what is not charged by."""

    per_1000_searches: float = 0.0
    per_million_tokens: float = 0.0
    per_hour: float = 0.0

    def per_1000(self, searches: float, tokens: float, seconds: float) -> float | None:
        """Of 1,000 queries that take so many searches, tokens and seconds each, on average; None without a price."""
        if not (self.per_1000_searches or self.per_million_tokens or self.per_hour):
            return None
        by_use = self.per_1000_searches * searches + self.per_million_tokens * tokens / 1e3
        return by_use + self.per_hour * seconds / 3.6


@dataclass(frozen=True)
class Against:
    """kind: LOCAL, OWN or the name of a wire format. address: a URL, or the model of LOCAL. model: None for the one
    that the server has, or the best tier of OWN. key: an environment variable; None for none. hosted: on the
    internet."""

    name: str
    kind: str
    address: str
    model: str | None = None
    key: str | None = None
    hosted: bool = False
    price: Price = Price()

    @property
    def identity(self) -> str:
        return f"{self.kind}:{self.address}#{self.model or ''}"


def parse_against(spec: str, environment: Mapping[str, str]) -> Against:
    """environment: its variables. Raises ConfigError that says what is wrong with the spec, or which key is missing."""
    where, *words = spec.split(",")
    options = dict(word.split("=", 1) for word in words if "=" in word)
    if wrong := [word for word in words if word.partition("=")[0] not in OPTIONS or "=" not in word]:
        raise ConfigError(f"{spec}: {wrong[0]!r} is none of {', '.join(f'{name}=' for name in OPTIONS)}")
    kind, _, rest = where.partition(":")
    if kind in ("http", "https"):
        kind, rest = OWN, where
    if kind not in (*FORMATS, LOCAL, OWN) or not rest:
        raise ConfigError(
            f"{spec}: give FORMAT:URL with {', '.join(FORMATS)}; "
            f"{' or '.join(f'{name}:MODEL' for name in HOSTED)} for the hosted service; "
            f"{LOCAL}:FOLDER or hub id; or the URL of a Rankfleet server"
        )
    if kind == LOCAL:
        return Against(
            name_of(spec, options, rest.rstrip("/").rpartition("/")[2]), kind, rest, price=price_of(spec, options)
        )
    address, _, model = rest.partition("#")
    hosted = FORMATS[kind].hosted if kind in FORMATS and "://" not in rest else None
    if hosted is not None:
        address, model = hosted.address, rest
    elif "://" not in address:
        raise ConfigError(f"{spec}: {kind} needs the URL of a server, such as {kind}:http://127.0.0.1:8080")
    keys = (options["key"],) if "key" in options else hosted.keys if hosted else ()
    key = next((name for name in keys if environment.get(name)), keys[0] if keys else None)
    if key is not None and not environment.get(key):
        raise ConfigError(f"{spec}: put its key into the environment variable {key}")
    name = name_of(spec, options, model or address.partition("://")[2].strip("/"))
    return Against(name, kind, address, model or None, key, hosted is not None, price_of(spec, options))


def name_of(spec: str, options: Mapping[str, str], default: str) -> str:
    name = options.get("name", default)
    if not name or any(sign in name for sign in BETWEEN_STAGES):
        raise ConfigError(f"{spec}: give a name without spaces, commas and >, as in name=current")
    return name


def price_of(spec: str, options: Mapping[str, str]) -> Price:
    try:
        prices = [float(options.get(name, 0.0)) for name in PRICES]
    except ValueError as error:
        raise ConfigError(f"{spec}: a price is a number of US dollars: {error}") from error
    if not all(0 <= price < float("inf") for price in prices):
        raise ConfigError(f"{spec}: a price is a number of US dollars, 0 or more")
    return Price(*prices)
