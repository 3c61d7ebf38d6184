"""Start everything for development: ``uv run python -m dev``. Ctrl-C stops it all."""

import sys
from pathlib import Path

from honcho.environ import parse_procfile
from honcho.manager import Manager

INTERRUPTED = 130  # the exit code of Ctrl-C


def main() -> int:
    """Run every line of dev/Procfile until one ends or Ctrl-C, and return the exit code.

    The processes read .env themselves: honcho's own way would put it before the environment.
    """
    manager = Manager()
    procfile = Path(__file__).with_name("Procfile").read_text(encoding="utf-8")
    for name, command in parse_procfile(procfile).processes.items():
        manager.add_process(name, command)
    manager.loop()
    return 0 if manager.returncode == INTERRUPTED else manager.returncode


if __name__ == "__main__":
    sys.exit(main())
