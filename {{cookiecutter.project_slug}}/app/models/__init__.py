"""All models. Alembic sees those that are imported here."""

from app.core.database import Base
{% if cookiecutter.use_celery %}
from app.models.job import Job, JobStatus, ScheduleState
{% endif %}
from app.models.refresh_token import RefreshToken
from app.models.user import User

__all__ = ["Base", {{ '"Job", "JobStatus", ' if cookiecutter.use_celery }}"RefreshToken", {{ '"ScheduleState", ' if cookiecutter.use_celery }}"User"]
