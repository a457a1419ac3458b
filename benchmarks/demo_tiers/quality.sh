#!/usr/bin/env bash
# Quality of the demo tiers, reranking BM25's top 100, beside BM25's own order: benchmarks/results/demo_quality.json
#
#     make install && .venv/bin/pip install -c constraints.txt -e '.[eval]'
#     DATA=../shared/data/eval benchmarks/demo_tiers/quality.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${DATA:?folder with cranfield/, medline/, cisi/ and dbpedia-sample/ in BEIR layout}"
.venv/bin/rankfleet evaluate --config demo --data "$DATA/cranfield" --data "$DATA/medline" --data "$DATA/cisi" \
    --data "$DATA/dbpedia-sample" --top-k 100 --threads 2 --json benchmarks/results/demo_quality.json
