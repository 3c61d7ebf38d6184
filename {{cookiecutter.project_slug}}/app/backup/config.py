"""What is backed up, and where to."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

# Called as progress(phase, bytes done), about twice a second.
Progress = Callable[[str, int], None]


def no_progress(phase: str, done: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class BackupConfig:
    """What is backed up, and where to.

    ``url`` and ``verify_url`` are SQLAlchemy URLs; backups are restored for verification on the
    server of the second, if there is one. ``directory`` may be shared with other databases.
    The object store's credentials and endpoint are environment variables.
    """

    url: str = field(repr=False)
    directory: Path
    project: str = "{{ cookiecutter.project_slug }}"
    keep_at_least: int = 3
    verify_url: str | None = field(default=None, repr=False)
    copy_url: str | None = None
    age_recipients: tuple[str, ...] = ()
    age_identity_file: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "directory", Path(self.directory).absolute())
