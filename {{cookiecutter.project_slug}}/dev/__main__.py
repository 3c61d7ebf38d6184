"""Start everything for development: ``uv run python -m dev``. Ctrl-C stops it."""

from dev.env import offer_env_file


def main() -> None:
    """Offer to create ``.env`` if there is none, then start the processes."""
    offer_env_file()
    # The settings are read on import.
    from dev.processes import run

    run()


if __name__ == "__main__":
    main()
