"""The one seam that says which engine is in use."""

from types import ModuleType

from app.backup.errors import BackupError


def engine_for(url: str) -> ModuleType:
    """Return the engine for a database URL."""
    from app.backup.engines import {{ cookiecutter.database }} as engine

    if not url.startswith("{{ cookiecutter.database }}"):
        raise BackupError("DATABASE_URL is not {{ cookiecutter.database }}: it cannot be backed up")
    return engine
