"""Whom tiers are compared with, as the command line names it, and what it costs."""

import pytest

from rankfleet.core.errors import ConfigError
from rankfleet.evaluate.against import Against, Price, parse_against

COHERE, VOYAGE = "https://api.cohere.com", "https://api.voyageai.com"
KEYS = {"CO_API_KEY": "c", "VOYAGE_API_KEY": "v", "MINE": "m", "EMPTY": ""}


@pytest.mark.parametrize(
    ("spec", "read"),
    [
        ("cohere:rerank-v3.5", Against("rerank-v3.5", "cohere", COHERE, "rerank-v3.5", "CO_API_KEY", True)),
        ("voyage:rerank-2", Against("rerank-2", "voyage", VOYAGE, "rerank-2", "VOYAGE_API_KEY", True)),
        ("cohere:http://127.0.0.1:9#m", Against("m", "cohere", "http://127.0.0.1:9", "m")),
        ("tei:http://tei:8080", Against("tei:8080", "tei", "http://tei:8080")),
        ("vllm:https://v/base#BAAI/bge,key=MINE", Against("BAAI/bge", "vllm", "https://v/base", "BAAI/bge", "MINE")),
        ("http://fleet:8000#large", Against("large", "rankfleet", "http://fleet:8000", "large")),
        ("rankfleet:http://fleet:8000,name=live", Against("live", "rankfleet", "http://fleet:8000")),
        ("sentence-transformers:cross-encoder/ms", Against("ms", "sentence-transformers", "cross-encoder/ms")),
        ("sentence-transformers:/models/mine/", Against("mine", "sentence-transformers", "/models/mine/")),
    ],
)
def test_every_kind_of_spec(spec: str, read: Against) -> None:
    assert parse_against(spec, KEYS) == read


def test_prices_and_a_name_stand_behind_commas() -> None:
    read = parse_against(
        "tei:http://t,name=now,usd_per_hour=1.5,usd_per_1000_searches=2,usd_per_million_tokens=.05", {}
    )
    assert (read.name, read.price) == ("now", Price(2.0, 0.05, 1.5))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "large",
            "large: give FORMAT:URL with cohere, jina, voyage, tei, vllm, infinity, sglang, nim; coh",
        ),
        ("cohere:", "give FORMAT:URL"),
        ("tei:BAAI/bge", "tei needs the URL of a server, such as tei:http://127.0.0.1:8080"),
        ("jina:jina-reranker-v2", "put its key into the environment variable JINA_API_KEY"),
        ("tei:http://t,key=EMPTY", "put its key into the environment variable EMPTY"),
        (
            "tei:http://t,price=3",
            "'price=3' is none of name=, key=, usd_per_1000_searches=, usd_per_million_t",
        ),
        ("tei:http://t,usd_per_hour=much", "a price is a number of US dollars: could not convert"),
        ("tei:http://t,usd_per_hour=-1", "a price is a number of US dollars, 0 or more"),
        ("tei:http://t,usd_per_hour=nan", "a price is a number of US dollars, 0 or more"),
        ("tei:http://t,name=my own", "give a name without spaces, commas and >"),
        ("sentence-transformers:a>b", "give a name without spaces, commas and >"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(spec: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_against(spec, KEYS)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("price", "usd"),
    [
        (Price(), None),
        (Price(per_1000_searches=2.0), 6.0),  # three searches a query
        (Price(per_million_tokens=0.05), 0.75),  # 15,000 tokens a query are 15 million for 1,000
        (Price(per_hour=1.8), 0.25),  # half a second a query is 500 s, and 0.1389 h
        (Price(2.0, 0.05, 1.8), 7.0),
    ],
)
def test_what_1000_queries_cost(price: Price, usd: float | None) -> None:
    assert price.per_1000(searches=3, tokens=15_000, seconds=0.5) == (usd if usd is None else pytest.approx(usd))
