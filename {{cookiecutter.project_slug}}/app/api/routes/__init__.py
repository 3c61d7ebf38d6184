"""All routes, one module per resource."""

from fastapi import APIRouter

from app.api.errors import errors
from app.api.routes import auth, health, metrics, {% if cookiecutter.use_celery %}tasks, {% endif %}users

# Any route can receive a malformed or too large request, or fail to reach the database.
api_router = APIRouter(responses=errors(400, 413, 422, 503))
api_router.include_router(health.router)
api_router.include_router(metrics.router)
api_router.include_router(auth.router)
api_router.include_router(users.router)
{% if cookiecutter.use_celery %}
api_router.include_router(tasks.router)
{% endif %}
