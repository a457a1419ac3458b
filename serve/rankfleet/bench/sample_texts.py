"""Sample texts to score: English-like, of mixed lengths with a given mean, the same on every machine.

Words are English and drawn with Zipf's frequencies; rarer ones have prefixes and endings, so that a tokenizer trained
on English needs about as many tokens per word as for prose (1.5 with ModernBERT's). The texts mean nothing: the time to
score a pair depends on its length alone.
"""

import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from statistics import NormalDist

from rankfleet.core.errors import InvalidRequest

# Roughly in order of frequency in English.
_ENGLISH = """
the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one
you were all her she there would their we him been has when who will no more if out so up said what its about than
into them can only other time new some could these two may first then do any like my now over such our man me even
most made after also well did many before must years through much where way down should because long each just state
people those too mr how little good world make very year still see own work men day get here old between both life
being under three never know same last another while us off might great go come since against right came take used
himself few house use during without again place around however home small found thought went say part once general
high upon school every war water light land river sea mountain winter summer city village market price trade ship
engine wing metal stone glass paper wood cotton sugar grain bread salt oil gas coal fire wind rain snow storm island
bridge road railway station harbour castle church temple museum theatre music song dance painting poem novel letter
language grammar history law court judge prison army navy treaty empire king queen duke bishop minister parliament
election party vote tax bank loan debt profit wage labour union factory machine tool wheel clock map compass telescope
planet star moon comet orbit gravity atom molecule acid enzyme protein cell tissue blood heart brain nerve muscle bone
skin virus fever vaccine dose drug patient doctor nurse hospital surgery diet vitamin sleep memory habit child parent
teacher student lesson exam university library archive record number equation theorem proof angle circle curve
surface volume pressure heat energy voltage current circuit signal frequency wave antenna radio camera film screen
keyboard software network server memory storage query document index rank score model sample error measure test
result method theory evidence cause effect risk benefit policy climate forest desert valley lake ocean coral whale
shark salmon eagle sparrow beetle spider horse cattle sheep goat wheat maize rice potato tomato apple grape olive
coffee tea wine beer cheese butter garden flower seed root leaf soil harvest drought flood earthquake volcano glacier
fossil dinosaur mammal reptile insect fungus bacteria species habitat evolution gene mutation chromosome inherit
describe explain compare increase reduce improve prevent produce develop discover invent publish translate negotiate
"""
WORDS = _ENGLISH.split()
ENDINGS = ("s", "ed", "ing", "er")
RARE_ENDINGS = ("less", "ment", "ness", "ful", "ism", "ward", "like", "able")
RARE_PREFIXES = ("re", "un", "over", "inter", "counter", "micro")
SPREAD = 0.6  # standard deviation of log length: one in twenty candidates is at least 2.7 times as long as the median
QUERY_WORDS = 9


@dataclass(frozen=True)
class SampleRequest:
    """One query and its candidates."""

    query: str
    documents: list[str]


@lru_cache(maxsize=1)
def lexicon() -> tuple[list[str], list[float]]:
    """All words, the most frequent first, and their cumulative frequencies.

    By Zipf's law (with Mandelbrot's offset) the frequency of the word of rank r is proportional to 1 / (r + 2.7).
    """
    common = WORDS[100:]
    derived = [word + ending for ending in ENDINGS for word in common]
    rare = [word + ending for ending in RARE_ENDINGS for word in common]
    rare += [prefix + word for prefix in RARE_PREFIXES for word in common]
    for group in (derived, rare):
        random.Random(0).shuffle(group)
    known = list(dict.fromkeys(WORDS + derived + rare))
    return known, list(accumulate(1 / (rank + 2.7) for rank in range(1, len(known) + 1)))


def sample_words(rng: random.Random) -> Iterator[str]:
    """An endless run of words in sentences, with capitals, commas, full stops and an occasional number."""
    known, cumulative = lexicon()
    while True:
        length = rng.randint(6, 26)
        for at, word in enumerate(rng.choices(known, cum_weights=cumulative, k=length)):
            if rng.random() < 0.02:
                word = str(rng.randint(2, 2050))
            if at == 0:
                word = word.capitalize()
            if at == length - 1:
                word += rng.choice("....?!")
            elif rng.random() < 0.07:
                word += ","
            yield word


def training_texts(texts: int) -> list[str]:
    """Texts of 120 words each, to train a tokenizer on."""
    run = sample_words(random.Random(1))
    return [" ".join(next(run) for _ in range(120)) for _ in range(texts)]


def pair_lengths(pairs: int, mean: int, max_tokens: int, seed: int = 0) -> list[int]:
    """Tokens of each pair before it is cut to `max_tokens`: log-normal, shuffled.

    After the cut the pairs have `mean` tokens on average, to within half a token. Raises InvalidRequest where no such
    lengths exist.
    """
    if not 16 <= mean < max_tokens:
        raise InvalidRequest(f"a mean of {mean} tokens needs to be at least 16 and below the limit of {max_tokens}")
    # Even quantiles rather than draws: the mean and the spread are the same for few pairs and for many.
    shape = [math.exp(SPREAD * NormalDist().inv_cdf((i + 0.5) / pairs)) for i in range(pairs)]
    low, high = 0.0, float(max_tokens) * 1000
    for _ in range(80):
        scale = (low + high) / 2
        cut = sum(min(max_tokens, max(12, scale * s)) for s in shape)
        low, high = (scale, high) if cut < mean * pairs else (low, scale)
    lengths, carried = [], 0.0
    for s in shape:  # each rounding error is carried to the next length, so that they do not add up
        exact = max(12, low * s) + (carried if low * s < max_tokens else 0)
        lengths.append(round(exact))
        carried = exact - lengths[-1] if low * s < max_tokens else carried
    random.Random(seed).shuffle(lengths)
    return lengths


def write_request(
    lengths: list[int], count: Callable[[str], int], special_tokens: int, seed: int = 0, query_words: int = QUERY_WORDS
) -> SampleRequest:
    """A query and documents that make pairs of these lengths.

    count: number of tokens of a text, without special tokens; special_tokens: how many special tokens a pair has.
    """
    run = sample_words(random.Random(seed))
    query = " ".join(next(run) for _ in range(query_words)).rstrip(".,!?") + "?"
    around = count(query) + special_tokens
    documents = []
    for length in lengths:
        tokens = max(1, length - around)
        pool = [next(run) for _ in range(tokens)]  # each word has at least one token
        low, high = 1, tokens  # the fewest words that reach the length
        while low < high:
            middle = (low + high) // 2
            if count(" ".join(pool[:middle])) < tokens:
                low = middle + 1
            else:
                high = middle
        # The last word may have several tokens, so one word fewer may be nearer.
        shorter, longer = (" ".join(pool[:number]) for number in (max(1, high - 1), high))
        documents.append(longer if count(longer) - tokens <= tokens - count(shorter) else shorter)
    return SampleRequest(query, documents)


def save_requests(requests: list[SampleRequest], path: Path) -> None:
    path.write_text(json.dumps([asdict(request) for request in requests]), encoding="utf-8")


def read_requests(path: Path) -> list[SampleRequest]:
    return [SampleRequest(**request) for request in json.loads(path.read_text(encoding="utf-8"))]
