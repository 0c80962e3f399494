# Sourced by quickstart.sh and run_tests.sh: makes .venv in the repository and installs what a requirements file pins.
#
#   use_environment requirements.txt ...      afterwards `python` is the environment's
#   use_compiler                              and has a compiler for the CPU kernels

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON_RANGE="3.10 to 3.12"       # what MindSpore 2.10 has wheels for
SPACE_KB=$((5 * 1024 * 1024))     # MindSpore's wheel and what it unpacks to

fail() {
    echo "error: $*" >&2
    exit 2
}

# The first Python on PATH that MindSpore has a wheel for; $PYTHON goes first.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.10 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

use_environment() {
    local venv=$ROOT/.venv installed log python requirements=("${@/#/$ROOT/}")
    installed=$venv/installed-$(cat "${requirements[@]}" | cksum | cut -d' ' -f1)
    if [ ! -e "$installed" ]; then
        python=$(find_python) || fail "no Python $PYTHON_RANGE found; install one, or name it: PYTHON=/path/to/python bash $0"
        [ "$(df -Pk "$ROOT" | awk 'NR == 2 {print $4}')" -ge $SPACE_KB ] ||
            fail "$ROOT: less than $((SPACE_KB / 1024 / 1024)) GB free; the environment needs that much"
        [ -x "$venv/bin/python" ] || "$python" -m venv "$venv" ||
            fail "$python cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"
        log=$venv/pip.log
        echo "installing ${*} into .venv (MindSpore is a download of 750 MB) ..."
        "$venv/bin/python" -m pip install --disable-pip-version-check "${requirements[@]/#/--requirement=}" >"$log" 2>&1 ||
            fail "pip could not install the requirements ($(grep -m1 '^ERROR' "$log" || tail -n 1 "$log")); see $log; is there a network?"
        touch "$installed"
    fi
    # shellcheck disable=SC1091
    . "$venv/bin/activate"
}

# Installs one from PyPI where the machine has none that will do. Without one, everything works, but slowly.
use_compiler() {
    local log=$ROOT/.venv/compiler.log
    if [ -n "${CXX:-}" ] || (cd "$ROOT" && CPU_KERNELS_MARCH= python -c \
        "from src.cpu_kernels.compiler import find_compiler; find_compiler()" >/dev/null 2>&1); then
        return
    fi
    echo "no C++ compiler found that can build the CPU kernels: installing ziglang into .venv (a download of 100 MB);" \
        "the first run compiles them with it, which takes one to two minutes ..."
    python -m pip install --disable-pip-version-check --requirement="$ROOT/requirements-compiler.txt" >"$log" 2>&1 ||
        echo "warning: pip could not install it ($(grep -m1 '^ERROR' "$log" || tail -n 1 "$log")); see $log;" \
            "training is many times slower without it" >&2
}
