"""Documents, queries, judgements and runs in people's shapes: read right, or refused by file and line."""

import gzip
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rankfleet.cli.rank import read_lines
from rankfleet.core.errors import InvalidRequest, RankfleetError
from rankfleet.retrieval.corpus import Document, document_files, judged_files, read_documents, read_judged
from rankfleet.retrieval.judgements import read_judgements, read_query_texts
from rankfleet.retrieval.runs import read_run

SEPARATOR = "\u2028"  # a line separator of Unicode, which ends no line of a file


def write(file: Path, content: str | bytes | list[dict[str, Any]]) -> Path:
    """Text as UTF-8, bytes as they are, a list as Parquet."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(content), file)
    else:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


JUDGED = {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}}
NUMBERED = {"1": {"7": 2, "8": 0}, "2": {"7": 1}}
BEIR = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td1\t1\n"
TREC = "q1 0 d1 2\nq1 0 d2 0\nq2 0 d1 1\n"


@pytest.mark.parametrize(
    ("content", "judgements"),
    [
        (BEIR, JUDGED),
        (BEIR.partition("\n")[2], JUDGED),
        (TREC, JUDGED),
        (TREC.replace(" ", "\t"), JUDGED),
        (TREC.replace(" 0 d", " Q0  d"), JUDGED),
        (TREC.replace(" 0 d", " 4.5 d"), JUDGED),
        ("qid iter docno rel\n" + TREC, JUDGED),
        ("score\tcorpus-id\tquery-id\tby\n2\td1\tq1\tann\n0\td2\tq1\tbob\n1\td1\tq2\tann\n", JUDGED),
        ("1\t0\t7\t2\n1\t0\t8\t0\n2\t0\t7\t1\n", NUMBERED),
        ("1\t7\t2\n1\t8\t0\n2\t7\t1", NUMBERED),
        ("query-id\tcorpus-id\tscore\n0\t0\t1\n", {"0": {"0": 1}}),
        ("0 0 0 1\n", {"0": {"0": 1}}),
        ('{"query-id": "q1", "corpus-id": "d1", "score": 2}\n{"query-id": "q1", "corpus-id": "d2", "score": 0}\n'
         '{"query-id": "q2", "corpus-id": "d1", "score": 1}\n', JUDGED),
        ('{"query_id": 1, "doc_id": 7, "relevance": 2.0, "iteration": "0"}\n'
         '{"query_id": 1, "doc_id": 8, "relevance": 0}\n{"query_id": 2, "doc_id": 7, "relevance": "1"}', NUMBERED),
        ([{"query-id": 1, "corpus-id": 7, "score": 2.0}, {"query-id": 1, "corpus-id": 8, "score": 0.0},
          {"query-id": 2, "corpus-id": 7, "score": 1.0}], NUMBERED),
        (gzip.compress(BEIR.encode()), JUDGED),
        ("\ufeff" + BEIR, JUDGED),
        ("\ufeff" + TREC, JUDGED),
        (BEIR.replace("\n", "\r\n"), JUDGED),
        (TREC.replace("\n", "\r\n"), JUDGED),
        ("\n" + BEIR.replace("\n", "\n \n\n"), JUDGED),
        (BEIR.replace("\t2\n", "\t2.0\n").replace("\t1\n", "\t1.0\n"), JUDGED),
        (BEIR + "q1\td1\t2\n", JUDGED),
        ("q1 0 d1 -1\nq1 0 d2 3\n", {"q1": {"d1": -1, "d2": 3}}),
        ('q\t"Heroes" (album)\t1\nq\t"open\t2\n', {"q": {'"Heroes" (album)': 1, '"open': 2}}),
        (f"q\ta{SEPARATOR}b\t1\n", {"q": {f"a{SEPARATOR}b": 1}}),
        (f"q 0 a{SEPARATOR}b 1\nq 0 a\xa0b 2\n", {"q": {f"a{SEPARATOR}b": 1, "a\xa0b": 2}}),
    ],
)  # fmt: skip
def test_judgements_are_read(content: Any, judgements: dict[str, dict[str, int]], tmp_path: Path) -> None:
    assert read_judgements(write(tmp_path / "qrels", content)) == judgements


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "qrels holds no judgements; judgements have the columns query id, document id, grade (BEIR) or query"),
        ("query-id\tcorpus-id\tscore\n", "qrels holds no judgements; judgements have the columns"),
        (gzip.compress(b""), "qrels holds no judgements"),
        ("q1\td1\n", "qrels:1: 2 columns ('q1\\td1'); judgements have the columns query id, document id, grade"),
        ("q1\n", "qrels:1: 1 column ('q1'); judgements have"),
        ("q1 Q0 d1 1 9.5 bm25\n", "qrels:1: 6 columns ('q1 Q0 d1 1 9.5 bm25'); judgements have"),
        ("topic\tdoc\tgood\nq1\td1\t1\n", "qrels:1: the grade 'good' is not a whole number"),
        (BEIR + "q2\td9\n", "qrels:5: 2 columns, where line 1 has 3"),
        (BEIR + "q2\t0\td9\t1\n", "qrels:5: 4 columns, where line 1 has 3"),
        (TREC + "q2 0 the album 1\n", "qrels:4: 5 columns, where line 1 has 4"),
        ("q1\td1\t2\nq1\td2\thigh\n", "qrels:2: the grade 'high' is not a whole number"),
        ("q1\td1\t0.5\n", "qrels:1: the grade '0.5' is not a whole number"),
        ("q1\td1\tnan\n", "qrels:1: the grade 'nan' is not a whole number"),
        ("q1\td1\t1e3\n", "qrels:1: the grade '1e3' is not a whole number"),
        ("q1\td1\t1764000000\n", "qrels:1: the grade '1764000000' is not a whole number"),
        ('{"query-id": "q1", "corpus-id": "d1", "score": true}', "qrels:1: the grade 'True' is not a whole number"),
        ('{"query-id": "q1", "corpus-id": "d1"}', "qrels:1: judgements have"),
        ('{"query-id": "q1", "corpus-id": 1.5, "score": 1}', "qrels:1: an id is neither text nor a whole number"),
        ("q1\t\t1\n", "qrels:1: an id is neither"),
        (BEIR + "q1\td1\t1\n", "qrels:5: the query 'q1' has the document 'd1' with grade 1 here and 2 before"),
        ("q1 d1 2 0\n", "qrels:1: is 'd1' in the second column a document, or what TREC has there (0 or Q0)? Begin"),
        ("1 17 1 0\n1 18 0 0\n2 19 1 0\n", "qrels: is '17' in the second column a document"),
        ("q1\t0\t1\nq2\t0\t1\n", "qrels: is '0' in the second column a document, or what TREC has there"),
        ('{"qid": "q1", "query_id": "x", "docid": "d1", "score": 1}', "which is the query, 'query_id' or 'qid'?"),
        ('{"qid": "q", "docid": "d", "score": 1, "grade": 2}', "qrels:1: which is the grade, 'score' or 'grade'?"),
        ("[\n {}\n]", "qrels:1: a JSON list; judgements have"),
        (BEIR.encode("utf-16"), "qrels is not UTF-8 text: line 1"),
        (b"q1\td1\t1\nq1\t\xff\t1\n", "qrels is not UTF-8 text: line 2"),
        (b"qrels.tsv\0\0\0" + BEIR.encode(), "qrels is not a text file; unpack archives first"),
        (b"BZh91AY&SY", "qrels is compressed by bzip2; unpack it, or compress it by gzip"),
        (b"PK\x03\x04", "qrels is compressed as a zip archive"),
        (gzip.compress(BEIR.encode())[:-9], "qrels: Compressed file ended"),
        (b"PAR1 and no more", "qrels: not a whole Parquet file"),
    ],
)
def test_judgements_are_refused(content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as fault:
        read_judgements(write(tmp_path / "qrels", content))
    assert message in str(fault.value)


def test_commas_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidRequest, match=r"qrels\.csv is comma-separated, where quotes mean different things; judg"
    ):
        read_judgements(write(tmp_path / "qrels.csv", "query-id,corpus-id,score\nq1,d1,1\n"))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_documents_to_rank_are_lines(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    file = write(tmp_path / "docs.txt", pack(f"\ufeffone\r\n\r\n two{SEPARATOR}lines\t\n".encode()))
    assert read_lines(file) == ["one", f" two{SEPARATOR}lines\t"]


TEXTS = {"1": "what is a wing", "2": f"half{SEPARATOR}line"}


@pytest.mark.parametrize(
    "content",
    [
        f'{{"_id": "1", "text": "what is a wing", "metadata": {{}}}}\n{{"_id": 2, "text": "half{SEPARATOR}line"}}\n',
        f'{{"query_id": "1", "text": "what is a wing"}}\n\n{{"query_id": "2", "text": "half{SEPARATOR}line"}}',
        f'{{"qid": "1", "query": "what is a wing"}}\r\n{{"qid": "2", "query": "half{SEPARATOR}line"}}\r\n',
        f"1\twhat is a wing\n2\thalf{SEPARATOR}line\n",
        f"\ufeffid\ttext\r\n1\twhat is a wing\r\n\r\n2\thalf{SEPARATOR}line\r\n",
        f"query\tlanguage\tqid\nwhat is a wing\ten\t1\nhalf{SEPARATOR}line\ten\t2\n",
        gzip.compress(f"1\twhat is a wing\n2\thalf{SEPARATOR}line\n1\twhat is a wing\n".encode()),
        [{"_id": "1", "text": "what is a wing"}, {"_id": "2", "text": f"half{SEPARATOR}line"}],
    ],
)
def test_queries_are_read(content: Any, tmp_path: Path) -> None:
    assert read_query_texts(write(tmp_path / "queries", content)) == TEXTS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", 'queries holds no queries; queries are JSON lines of {"_id", "text"}, or have the columns id and text'),
        ("1\twing\n1\ttail\n", "queries:2: the query '1' is 'tail' here and 'wing' before"),
        ("1 what is a wing\n", "queries:1: 1 column ('1 what is a wing'); queries are JSON lines of"),
        ("1\twing\t2\n", "queries:1: 3 columns ('1\\twing\\t2'); queries are"),
        ("1\twing\n2\ttail\tfin\n", "queries:2: 3 columns, where line 1 has 2"),
        ("<top>\n<num> Number: 301\n", "queries:1: 1 column ('<top>'); queries are JSON lines"),
        ("1\t\n", "queries:1: an id or a text is empty"),
        ('{"_id": "1", "text": 5}', "queries:1: an id or a text is empty, or the text is not a string"),
        ('{"_id": "1", "text": "a"}\n{"_id": "2", "text": null}', "queries:2: queries are JSON lines"),
        ('{"_id": "1", "id": "x", "text": "a"}', "queries:1: which is the id, '_id' or 'id'? Leave only that one"),
    ],
)
def test_queries_are_refused(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as fault:
        read_query_texts(write(tmp_path / "queries", content))
    assert message in str(fault.value)


HOT = '{"ID": "1", "url": "", "title": "Wings", "text": "get hot"}'
DOCUMENTS = [Document("1", "Wings get hot", "Wings"), Document("2", f"half{SEPARATOR}line")]


@pytest.mark.parametrize(
    "content",
    [
        f'{HOT.replace("ID", "_id")}\n{{"_id": 2, "title": null, "text": "half{SEPARATOR}line"}}',
        f'{{"_id": 2, "text": "half{SEPARATOR}line"}}\n{HOT.replace("ID", "_id")}\n',
        f'{HOT.replace("ID", "docid").replace("text", "body")}\n{{"docid": 2, "body": "half{SEPARATOR}line"}}',
        f'{HOT.replace("ID", "doc_id")}\r\n \r\n{{"doc_id": "2", "text": "half{SEPARATOR}line"}}\r\n',
        f"1\thttps://a.b/c\tWings\tget hot\n2\thttp://a.b/d\t\thalf{SEPARATOR}line\n",
        f"id\ttext\ttitle\n1\tget hot\tWings\n2\thalf{SEPARATOR}line\t\n",
        [{"_id": 1, "title": "Wings", "text": "get hot"}, {"_id": 2, "title": None, "text": f"half{SEPARATOR}line"}],
    ],
)
def test_documents_are_read(content: Any, tmp_path: Path) -> None:
    found = list(read_documents(write(tmp_path / "corpus", content)))
    assert sorted(found, key=lambda document: document.id) == DOCUMENTS


@pytest.mark.parametrize(
    "content",
    [
        "7\tget hot\n",
        '{"id": 7, "contents": "get hot"}\n',
        '{"pid": "7", "passage": "get hot", "spans": "(0,7)", "docid": "d3"}\n',
        "\ufeff7\tget hot\r\n",
        gzip.compress(b'\n{"id": "7", "text": "get hot"}'),
    ],
)
def test_documents_without_titles_are_read(content: str | bytes, tmp_path: Path) -> None:
    assert list(read_documents(write(tmp_path / "corpus", content))) == [Document("7", "get hot")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", 'corpus holds no documents; a document needs "_id" (or "id") and "text"'),
        ("\n\n", "corpus holds no documents"),
        ("1\tWings\tget hot\n", "corpus:1: 3 columns ('1\\tWings\\tget hot'); a document needs"),
        ("1\tWings\tget hot\t2026\n", "corpus:1: which of four columns is the title, and which the text?"),
        ('{"id": "1", "text": "a", "contents": "b"}', "corpus:1: which is the text, 'text' or 'contents'?"),
        ('{"id": 1.0, "text": "a"}', "corpus:1: a document needs"),
        ('{"id": "1", "text": "a", "title": 7}', "corpus:1: a document needs"),
        ('{"id": "1", "text": null}', "corpus:1: a document needs"),
        ('{"id": "1", "text": "a"}\n{"id": 1, "text": "b"}', "corpus:2: a second document has the id '1'"),
        ('{\n"id": "1", "text": "a"}', "corpus:1: not JSON"),
    ],
)
def test_documents_are_refused(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as fault:
        list(read_documents(write(tmp_path / "corpus", content)))
    assert message in str(fault.value)


@pytest.mark.parametrize(
    ("content", "run"),
    [
        ("q1 Q0 d2 1 9.5 bm25\nq1 Q0 d1 2 7 bm25\nq2 Q0 d3 1 1e1 bm25\n",
         {"q1": [("d2", 9.5), ("d1", 7.0)], "q2": [("d3", 10.0)]}),
        ("q1\tQ0\td1\t0\t7\tx\nq1\tQ0\td2\t0\t9.5\tx\n", {"q1": [("d2", 9.5), ("d1", 7.0)]}),
        ("q1 Q0 d1 2 7 x\nq1 Q0 d2 1 7 x\n", {"q1": [("d2", 7.0), ("d1", 7.0)]}),
        ("1\t8\t2\n1\t7\t1\n", {"1": [("7", -1.0), ("8", -2.0)]}),
        ('{"query_id": "q1", "doc_id": "d1", "score": -2}\n{"query_id": "q1", "doc_id": "d2", "score": 3}',
         {"q1": [("d2", 3.0), ("d1", -2.0)]}),
        (gzip.compress(b"\xef\xbb\xbfqid\tdocno\tscore\r\nq1\td2\t3\r\n"), {"q1": [("d2", 3.0)]}),
    ],
)  # fmt: skip
def test_runs_are_read(content: str | bytes, run: dict[str, list[tuple[str, float]]], tmp_path: Path) -> None:
    assert read_run(write(tmp_path / "run", content)) == run


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "run holds no ranking; a run has the columns query id, Q0, document id, rank, score, name (TREC)"),
        ("q1 0 d1 1\n", "run:1: 4 columns ('q1 0 d1 1'); a run has the columns"),
        ("q1 Q0 d1 1 nan x\n", "run:1: an id is missing, or rank or score is no number"),
        ("q1 d1 first\n", "run:1: an id is missing, or rank or score is no number"),
        ("q1 Q0 d1 1 9 x\nq1 Q0 d1 2 8 x\n", "run:2: the query 'q1' has the document 'd1' twice"),
        ("q1 Q0 d1 1 0.2 x\nq1 Q0 d2 2 0.9 x\n",
         "run: which order counts for the query 'q1'? By score 'd2' comes before 'd1', by rank after it"),
        ("q1 d1 1\nq1 d2 1\n", "run: the query 'q1' has two documents with the rank 1 and no scores"),
        ('{"qid": 1, "docid": 1}', "run:1: an id is missing, or rank or score is no number"),
        ('{"qid": 1, "docid": 1, "score": 2}\n{"qid": 1, "docid": 2, "rank": 1}', "run has scores on some lines only"),
    ],
)  # fmt: skip
def test_runs_are_refused(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as fault:
        read_run(write(tmp_path / "run", content))
    assert message in str(fault.value)


@pytest.mark.parametrize(
    ("files", "split", "documents", "queries", "judgements"),
    [
        ("corpus.jsonl queries.jsonl qrels/test.tsv qrels/train.tsv", None,
         "corpus.jsonl", "queries.jsonl", "qrels/test.tsv"),
        ("corpus.jsonl queries.jsonl qrels/test.tsv qrels/dev.tsv", "dev",
         "corpus.jsonl", "queries.jsonl", "qrels/dev.tsv"),
        ("corpus.jsonl queries.jsonl qrels/dev.tsv", None, "corpus.jsonl", "queries.jsonl", "qrels/dev.tsv"),
        ("corpus.jsonl.gz queries.jsonl.gz qrels/test.tsv.gz notes.jsonl", None,
         "corpus.jsonl.gz", "queries.jsonl.gz", "qrels/test.tsv.gz"),
        ("collection.tsv queries.train.tsv queries.dev.small.tsv qrels.dev.small.tsv qrels.train.tsv top1000.dev",
         "dev.small", "collection.tsv", "queries.dev.small.tsv", "qrels.dev.small.tsv"),
        ("docs.jsonl topics.tsv qrels.robust04", None, "docs.jsonl", "topics.tsv", "qrels.robust04"),
        ("corpus.jsonl corpus.jsonl.bak queries.jsonl queries.py qrels/test.tsv qrels/test.tsv~ qrels/README.md",
         "Test", "corpus.jsonl", "queries.jsonl", "qrels/test.tsv"),
        ("brunch.jsonl recipes.jsonl.gz queries.jsonl run.bm25.tsv 2019qrels-pass.txt README.md", None,
         "brunch.jsonl recipes.jsonl.gz", "queries.jsonl", "2019qrels-pass.txt"),
        ("corpus/corpus-00000-of-00002.parquet corpus/corpus-00001-of-00002.parquet "
         "queries/queries-00000-of-00001.parquet qrels/test-00000-of-00001.parquet qrels/train-00000-of-00001.parquet",
         None, "corpus/corpus-00000-of-00002.parquet corpus/corpus-00001-of-00002.parquet",
         "queries/queries-00000-of-00001.parquet", "qrels/test-00000-of-00001.parquet"),
    ],
)  # fmt: skip
def test_files_are_found(
    files: str, split: str | None, documents: str, queries: str, judgements: str, tmp_path: Path
) -> None:
    for name in files.split():
        write(tmp_path / name, "")
    assert document_files(tmp_path) == [tmp_path / name for name in documents.split()]
    assert judged_files(tmp_path, split) == (tmp_path / queries, tmp_path / judgements)


@pytest.mark.parametrize(
    ("files", "split", "message"),
    [
        ("", None, "test.tsv: no such file; judgements belong there (BEIR layout)"),
        ("queries.jsonl qrels/train.tsv", "test",
         "test.tsv: no such file; judgements belong there (BEIR layout); there is qrels/train.tsv"),
        ("qrels/dev.tsv qrels/train.tsv", None,
         "which judgements of {}, qrels/dev.tsv, qrels/train.tsv? Name one of dev, train with --split"),
        ("qrels/test.tsv qrels.test.txt", None, "which judgements of {}, qrels/test.tsv, qrels.test.txt?"),
        ("qrels/test.tsv", None, "queries.jsonl: no such file; queries belong there (BEIR layout)"),
        ("qrels/test.tsv queries.jsonl topics.tsv", None,
         "which queries of {}, queries.jsonl, topics.tsv? Leave only one, or one called queries.test.tsv"),
    ],
)  # fmt: skip
def test_files_that_could_be_meant_are_asked_about(files: str, split: str | None, message: str, tmp_path: Path) -> None:
    for name in files.split():
        write(tmp_path / name, "")
    with pytest.raises(InvalidRequest) as fault:
        judged_files(tmp_path, split)
    assert message.format(tmp_path) in str(fault.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("corpus.jsonl collection.tsv", "which documents of {}, collection.tsv, corpus.jsonl? Leave only one"),
        ("queries.jsonl qrels.tsv", "{} is neither a JSONL file nor a folder with corpus.jsonl"),
    ],
)
def test_documents_that_could_be_meant_are_asked_about(files: str, message: str, tmp_path: Path) -> None:
    for name in files.split():
        write(tmp_path / name, "")
    with pytest.raises(InvalidRequest) as fault:
        document_files(tmp_path)
    assert message.format(tmp_path) in str(fault.value)


def test_judged_queries_have_a_text_and_a_relevant_document(tmp_path: Path) -> None:
    write(tmp_path / "queries.tsv", "q1\twing\nq2\ttail\nq3\tfin\n")
    write(tmp_path / "qrels.txt", "q1 0 d1 2\nq1 0 gone 1\nq2 0 d1 0\nq9 0 d1 1\n")
    judged = read_judged(tmp_path)
    assert (judged.queries, judged.qrels) == ({"q1": "wing"}, {"q1": {"d1": 2, "gone": 1}})
    assert judged.without_text == 1
    write(tmp_path / "qrels.txt", "q9 0 d1 1\n")
    with pytest.raises(InvalidRequest, match=r"qrels\.txt: no query .* none of the queries judged there has a text in"):
        read_judged(tmp_path)
    write(tmp_path / "qrels.txt", "q1 0 d1 0\n")
    with pytest.raises(InvalidRequest, match=r"qrels\.txt: no query .* no grade there is above 0"):
        read_judged(tmp_path)
    with pytest.raises(InvalidRequest, match=r"qrels\.txt is not a folder"):
        read_judged(tmp_path / "qrels.txt")


def test_the_shapes_on_the_page_are_read_and_say_the_same(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/quality.md").read_text().partition("\n## Files\n")[2]
    examples = dict(re.findall(r"^`([^`]+)`,?[^\n]*:\n\n```\n(.*?)```", page, re.MULTILINE | re.DOTALL))
    files = {name: write(tmp_path / name, text) for name, text in examples.items()}
    read = {
        "corpus.jsonl collection.tsv docs.tsv": lambda file: [(d.id, d.text) for d in read_documents(file)],
        "queries.jsonl topics.tsv": read_query_texts,
        "qrels/test.tsv qrels.txt qrels.jsonl": read_judgements,
        "run.txt run.tsv": lambda file: {query: [name for name, _ in found] for query, found in read_run(file).items()},
    }
    said = [
        [("d1", "Cats purr when they are stroked"), ("d2", "Dogs bark")],
        {"q1": "what do cats do", "q2": "what do dogs do"},
        {"q1": {"d1": 2, "d2": 0}, "q2": {"d2": 1}},
        {"q1": ["d1", "d2"]},
    ]
    assert set(" ".join(read).split()) == set(files)
    for (names, reader), expected in zip(read.items(), said, strict=True):
        assert [reader(files[name]) for name in names.split()] == [expected] * len(names.split())


def test_parquet_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "qrels.parquet", b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    with pytest.raises(RankfleetError, match=r"qrels\.parquet: reading Parquet needs a package:  pip install pyarrow"):
        read_judgements(file)
