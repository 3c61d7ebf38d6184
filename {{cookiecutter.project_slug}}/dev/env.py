"""Create ``.env`` from ``.env.example``, with fresh secrets: ``uv run python -m dev.env``."""

import os
import secrets
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENV_FILE = ROOT / ".env"


def create_env_file() -> None:
    """Write ``.env``, with 256 random bits for every variable that ``.env.example`` leaves empty.

    Raises:
        FileExistsError: There is one already. Its secrets are in use.
    """
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    ENV_FILE.touch(mode=0o600, exist_ok=False)
    with ENV_FILE.open("w", encoding="utf-8") as file:
        for line in lines:
            is_empty = line.endswith("=") and not line.startswith("#")
            print(line + secrets.token_hex(32) if is_empty else line, file=file)


def offer_env_file() -> None:
    """Ask whether to create ``.env`` if there is none."""
    if ENV_FILE.exists() or "SECRET_KEY" in os.environ or not sys.stdin.isatty():
        return
    answer = input("There is no .env file. Create one with fresh secrets? [Y/n] ")
    if answer.strip().lower() in ("", "y", "yes"):
        create_env_file()


if __name__ == "__main__":
    try:
        create_env_file()
    except FileExistsError:
        sys.exit(".env exists already, and was not changed.")
    print("Created .env with fresh secrets.")
