#!/usr/bin/env bash
# What a container does: the first word names a command, the others are its options.
#
#   container.sh train [OPTIONS]     train.py on the images in /data; also eval
#   container.sh infer [OPTIONS]     infer.py on the images in /data
#   container.sh export [OPTIONS]    export.py
#   container.sh PROGRAM ...         any other program, such as bash; the tools are in /opt/mobilenetv2/tools
#
# Paths are relative to /output. $PLATFORM is of the image: CPU or Ascend. An option that is given again is stronger.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=$(command -v python || command -v python3)

case ${1:-} in
    train | eval) images=(--dataset_path /data) ;;
    infer) images=(--images /data) ;;
    export) images=() ;;
    "")
        sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
        exit 2
        ;;
    *) exec "$@" ;;
esac
command=$1
shift
exec "$PYTHON" "$ROOT/$command.py" --platform "$PLATFORM" ${images[@]+"${images[@]}"} "$@"
