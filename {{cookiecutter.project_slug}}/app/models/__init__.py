"""All models."""

from importlib import import_module
from pkgutil import walk_packages

from app.core.database import Base
{% if cookiecutter.use_celery %}
from app.models.job import Job, JobStatus, ScheduleState
{% endif %}
from app.models.user import RefreshToken, User

__all__ = ["Base", {{ '"Job", "JobStatus", ' if cookiecutter.use_celery }}"RefreshToken", {{ '"ScheduleState", ' if cookiecutter.use_celery }}"User"]

# Every module is imported, so that Alembic sees each model.
for module in walk_packages(__path__, f"{__name__}."):
    import_module(module.name)
