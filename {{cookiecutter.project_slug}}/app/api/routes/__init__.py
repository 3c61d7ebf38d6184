"""All routes, one module per resource."""

from fastapi import APIRouter

from app.api.routes import auth, health, metrics, {% if cookiecutter.use_celery %}tasks, {% endif %}users

api_router = APIRouter()
api_router.include_router(health.router)
api_router.include_router(metrics.router)
api_router.include_router(auth.router)
api_router.include_router(users.router)
{% if cookiecutter.use_celery %}
api_router.include_router(tasks.router)
{% endif %}
