#!/usr/bin/env bash
# What a container does: the first word names a command, the others are its options.
#
#   container.sh train [OPTIONS]     train.py on the images in /data; also eval
#   container.sh infer [OPTIONS]     infer.py on the images in /data
#   container.sh export [OPTIONS]    export.py
#   container.sh PROGRAM ...         any other program, such as bash; the tools are in /opt/mobilenetv2/tools
#
# Paths are relative to /output. $PLATFORM is of the image: CPU or Ascend. An option of your own replaces these.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=$(command -v python || command -v python3)

options=()
# add NAME VALUE WORDS...: an option, unless it is among the words: the commands take each option once.
add() {
    local word
    for word in "${@:3}"; do
        case $word in "$1" | "$1="*) return ;; esac
    done
    options+=("$1" "$2")
}

case ${1:-} in
    train | eval) add --dataset_path /data "${@:2}" ;;
    infer) add --images /data "${@:2}" ;;
    export) ;;
    "")
        sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
        exit 2
        ;;
    *) exec "$@" ;;
esac
add --platform "$PLATFORM" "${@:2}"
exec "$PYTHON" "$ROOT/$1.py" "${options[@]}" "${@:2}"
