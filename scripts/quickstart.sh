#!/usr/bin/env bash
# From a fresh clone to a trained classifier: handwritten digits, on CPU, in a few minutes. Everything it makes is in
# .venv and quickstart/. Run it again as often as you like: a finished training is not repeated.
#
#   bash scripts/quickstart.sh
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

use_environment requirements.txt
use_compiler
cd "$ROOT"
out=quickstart

step() { printf '\n==== %s\n' "$*"; }

step "data: scikit-learn's handwritten digits as an image folder"
[ -d "$out/digits" ] || python tools/make_digits.py --output "$out/digits"

step "training"
python train.py --platform CPU --config_path scripts/quickstart.yaml \
    --dataset_path "$out/digits" --save_checkpoint_path "$out/checkpoint"

step "evaluation of the best checkpoint"
python eval.py --platform CPU --dataset_path "$out/digits" --pretrain_ckpt "$out/checkpoint/best.ckpt" \
    --confusion_matrix "$out/confusion.png" | tee "$out/eval.log"

step "export"
for format in MINDIR ONNX; do
    python export.py --platform CPU --ckpt_file "$out/checkpoint/best.ckpt" --file_format "$format" \
        --file_name "$out/digits-classifier"
done

step "classification of the validation images"
python infer.py --platform CPU --model "$out/checkpoint/best.ckpt" --images "$out/digits/val" \
    --predictions "$out/predictions"

step "done"
printf '%-18s %s\n' \
    "result" "$(grep '^result:' "$out/eval.log" | sed 's/^result: //; s/ ckpt=.*//')" \
    "checkpoint" "$out/checkpoint/best.ckpt" \
    "report" "$out/checkpoint/report.html" \
    "curves" "$out/checkpoint/curves.png" \
    "confusion matrix" "$out/confusion.png" \
    "exported" "$out/digits-classifier.mindir, $out/digits-classifier.onnx" \
    "predictions" "$out/predictions/predictions.csv" \
    "contact sheet" "$out/predictions/predictions.png"
