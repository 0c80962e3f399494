"""MobileNetV2 training, evaluation and export under MindSpore."""
import sys
from pathlib import Path

SYSTEMS = {"win32": "Windows", "cygwin": "Windows", "darwin": "macOS"}
COMMAND_FOLDERS = [Path(__file__).parents[1] / name for name in ("", "tools", "scripts")]

# Here, and not in `run_command`: on these systems a command would end in one of its imports, such as that of fcntl.
if sys.platform in SYSTEMS and Path(sys.argv[0]).absolute().parent in COMMAND_FOLDERS:
    way = "a container" if sys.platform == "darwin" else "WSL2 or a container"
    sys.stderr.write(f"error: {Path(sys.argv[0]).name} needs Linux, and this is {SYSTEMS[sys.platform]}: use {way}, "
                     "docs/containers.md says how\n")
    sys.exit(2)
