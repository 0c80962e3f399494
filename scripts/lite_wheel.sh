# Sourced by run_tests.sh: the MindSpore Lite that the 310 program is tested with on a CPU, from PyPI.
# shellcheck shell=bash
#
# The wheel is for CPython 3.7; only its C++ headers and library are used, so it is unpacked, not installed.

# Sets LITE_HOME, unless it is set; without a network the tests that need it are skipped.
use_lite() {
    local folder=$ROOT/.venv/mindspore-lite-2.0.0
    if [ -z "${LITE_HOME:-}" ] && [ ! -d "$folder/mindspore_lite" ] && [ "$(uname -m)" = x86_64 ]; then
        echo "fetching mindspore-lite 2.0.0 for the tests of the 310 program (170 MB) ..."
        rm -rf "$folder.part"
        mkdir -p "$folder.part"
        if python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
            --python-version 37 --platform manylinux1_x86_64 --dest "$folder.part" mindspore-lite==2.0.0 \
            >"$folder.log" 2>&1 && python -m zipfile -e "$folder.part"/*.whl "$folder.part"; then
            rm -f "$folder.part"/*.whl
            mv "$folder.part" "$folder"
        else
            rm -rf "$folder.part"
            echo "warning: could not fetch it ($(grep -m1 '^ERROR' "$folder.log" || tail -n 1 "$folder.log"));" \
                "its tests are skipped" >&2
        fi
    fi
    if [ -z "${LITE_HOME:-}" ] && [ -d "$folder/mindspore_lite" ]; then export LITE_HOME=$folder; fi
}
