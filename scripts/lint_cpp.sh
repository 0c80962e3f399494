#!/usr/bin/env bash
# Checks the layout (.clang-format) and the style (.clang-tidy) of all C++. --fix writes the layout first.
#
#   bash scripts/lint_cpp.sh [--fix]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

sources=(src/cpu_kernels/native/*.cc tests/cpp/*.cc ascend310_infer/src/*.cc)
headers=(src/cpu_kernels/native/*.h tests/cpp/*.h ascend310_infer/inc/*.h)
if [ "${1:-}" = --fix ]; then clang-format -i "${sources[@]}" "${headers[@]}"; fi
clang-format --dry-run --Werror "${sources[@]}" "${headers[@]}"

if ! command -v g++ >/dev/null; then
    echo "warning: no g++, whose C++ library clang-tidy reads; the style of the C++ is not checked" >&2
    exit 0
fi
flags=(-std=c++17 -Isrc/cpu_kernels/native -Iascend310_infer/inc)
checked=(src/cpu_kernels/native/*.cc tests/cpp/*.cc ascend310_infer/src/{description,files,framing,image_kind,normalisation,resize}.cc)
# The rest of the 310 program includes MindSpore Lite. dvpp_preprocess.cc needs a package for Ascend.
lite=${LITE_HOME:-}/mindspore_lite
if [ -d "$lite/include/api" ]; then
    flags+=(-isystem "$lite" -isystem "$lite/include")
    checked+=(ascend310_infer/src/{main,model_runner,preprocess}.cc)
fi
printf '%s\0' "${checked[@]}" | xargs -0 -P "$(nproc)" -I{} clang-tidy --quiet {} -- "${flags[@]}"
