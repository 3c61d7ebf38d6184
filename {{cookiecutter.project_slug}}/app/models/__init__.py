"""All models. Importing this package makes the metadata complete."""

from importlib import import_module
from pkgutil import iter_modules

from app.core.database import Base

# Every module in this package is imported, so that Alembic sees each model.
for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

{% if cookiecutter.use_celery %}
from app.models.job import Job, JobStatus, ScheduleState  # noqa: E402
{% endif %}
from app.models.refresh_token import RefreshToken  # noqa: E402
from app.models.user import User  # noqa: E402

__all__ = ["Base", {% if cookiecutter.use_celery %}"Job", "JobStatus", {% endif %}"RefreshToken"{% if cookiecutter.use_celery %}, "ScheduleState"{% endif %}, "User"]
