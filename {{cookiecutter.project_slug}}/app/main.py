{% from "quoted.jinja" import quoted %}
"""The application."""

from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

{% if cookiecutter.use_celery %}
from app.admin import add_admin
{% endif %}
from app.api.errors import add_error_handlers
{% set names = ["api_router"] + (["metrics"] if cookiecutter.use_monitoring else []) + (["tasks"] if cookiecutter.use_celery else []) %}
from app.api.routes import {{ names | join(", ") }}
from app.core.config.settings import settings
from app.core.logging import configure_logging

configure_logging()


class SecurityHeaders:
    """Adds the headers that OWASP recommends for APIs."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pure ASGI: behind a BaseHTTPMiddleware, a response that breaks off looks complete."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Cache-Control", "no-store")
                headers.setdefault("X-Content-Type-Options", "nosniff")
            await send(message)

        await self.app(scope, receive, send_with_headers)


def operation_id(route: APIRoute) -> str:
    """Return the tag and the name of a route, such as ``auth-login``, for generated clients."""
    return "-".join([*map(str, route.tags), route.name])


app = FastAPI(
    title={{ quoted(cookiecutter.project_name) }},
    description={{ quoted(cookiecutter.description) }},
    version="0.1.0",
    max_body_size=settings.app.MAX_BODY_SIZE,
    generate_unique_id_function=operation_id,
)
app.add_middleware(
    CORSMiddleware,
    allow_origins=settings.app.CORS_ORIGINS,
    allow_methods=["*"],
    allow_headers=["Authorization", "Content-Type"],
)
app.add_middleware(CorrelationIdMiddleware, transformer=lambda value: value[:64])
{% if cookiecutter.use_monitoring %}
metrics.add_metrics(app)
{% endif %}
app.add_middleware(SecurityHeaders)
add_error_handlers(app)
app.include_router(api_router)
{% if cookiecutter.use_celery %}
tasks.add_error_handlers(app)
add_admin(app)
{% endif %}
