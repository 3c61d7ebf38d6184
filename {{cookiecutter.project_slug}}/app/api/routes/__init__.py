"""All routes, one module per resource."""

from fastapi import APIRouter

from app.api.errors import errors
{% set names = ["auth", "health"] + (["metrics"] if cookiecutter.use_monitoring else []) + (["tasks"] if cookiecutter.use_celery else []) + ["users"] %}
from app.api.routes import {{ names | join(", ") }}

# Any route can receive a malformed or too large request, or fail to reach the database.
api_router = APIRouter(responses=errors(400, 413, 422, 503))
for module in ({{ names | join(", ") }}):
    api_router.include_router(module.router)
