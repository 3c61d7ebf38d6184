"""The commands for development: ``python -m dev`` and ``python -m dev.env``."""
