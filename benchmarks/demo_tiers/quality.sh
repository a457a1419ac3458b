#!/usr/bin/env bash
# Quality of the demo tiers, reranking BM25's top 100, alone and fused with BM25's order. Writes the figures of README
# and docs/quality.md to benchmarks/results/demo_quality.json, and the demo fleet's quality table with the weights of
# fusion to serve/rankfleet/models/demo/quality.json. Then: make docs
#
#     make install && .venv/bin/pip install -c constraints.txt -e '.[eval]'
#     DATA=../shared/data/eval benchmarks/demo_tiers/quality.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${DATA:?folder with cranfield/, medline/, cisi/ and dbpedia-sample/ in BEIR layout}"
.venv/bin/rankfleet evaluate --config demo --data "$DATA/cranfield" --data "$DATA/medline" --data "$DATA/cisi" \
    --data "$DATA/dbpedia-sample" --top-k 100 --fit-fusion --json benchmarks/results/demo_quality.json \
    --table serve/rankfleet/models/demo/quality.json
rm benchmarks/results/demo_quality.scores.jsonl # kept for a run that is ended; the next has other tiers
