"""Validate every answer, and apply "Celery needs Redis", before a file is written.

Cookiecutter validates what is typed at a prompt, but not the values of a replay file, so all of
them are validated here. The answers arrive as JSON text: no answer is executed.
"""

import json
import keyword
import os
import re
import sys
from contextlib import suppress

# tojson escapes quotes, so that no answer can end this string.
ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")

# The same as in cookiecutter.json; tests/bake/test_template.py compares them.
CHOICES = {
    "python_version": ["3.14", "3.13", "3.12"],
    "database": ["sqlite", "postgresql", "mysql"],
}
BOOLEANS = ["use_celery", "use_redis", "use_backup", "use_docker", "use_monitoring"]
TEXTS = ["project_name", "description", "author_name"]
# Control characters, and halves of a surrogate pair, which no encoding can hold.
NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

# What uv locks for a project, by answer: a package of the same name would depend on itself.
# tests/run/test_names.py compares it with the lock files of generated projects.
PACKAGES = {
    "always": """
        alembic annotated-doc annotated-types anyio argon2-cffi argon2-cffi-bindings
        asgi-correlation-id ast-serialize certifi cffi click colorama deprecated dnspython
        email-validator fastapi h11 honcho httpcore2 httptools httpx2 httpx2-jsfetch idna iniconfig
        librt limits mako markdown-it-py markupsafe mdurl mypy mypy-extensions opentelemetry-api
        packaging pathspec pluggy pwdlib pycparser pydantic pydantic-core pydantic-settings
        pygments pyjwt pytest python-dotenv python-multipart pyyaml rich ruff sentry-sdk
        shellingham sqlalchemy starlette structlog truststore typer typing-extensions
        typing-inspection urllib3 uvicorn uvloop watchfiles websockets wrapt""",
    "use_celery": """
        amqp async-timeout billiard celery celery-types click-didyoumean click-plugins click-repl
        fakeredis flower greenlet humanize itsdangerous jinja2 kombu lupa prometheus-client
        prompt-toolkit python-dateutil pytz redis six sortedcontainers starlette-admin tornado
        tzdata tzlocal vine wcwidth""",
    "use_redis": "async-timeout fakeredis lupa redis sortedcontainers",
    "use_backup": "isal obstore pyrage",
    "use_monitoring": "prometheus-client prometheus-fastapi-instrumentator",
    "postgresql": "psycopg psycopg-binary tzdata",
    "mysql": "cryptography pymysql types-pymysql",
}
# Words that Python or a YAML file would read as something else, and the package of the project.
RESERVED = ["app", "false", "n", "no", "null", "off", "on", "true", "y", "yes", *keyword.kwlist]


def packages_of(answers):
    """Return the packages that a project with these answers installs."""
    reasons = ["always", answers["database"], *(name for name in BOOLEANS if answers[name])]
    return {package for reason in reasons for package in PACKAGES.get(reason, "").split()}


def validate_slug(answers):
    """Return what is wrong with the slug, or None."""
    slug = answers["project_slug"]
    if not isinstance(slug, str) or not re.fullmatch(r"[a-z][a-z0-9_-]*(?<![_-])", slug):
        rule = (
            "must start with a lowercase letter, contain only lowercase letters, digits, - and _, "
            "and end with a letter or digit"
        )
    elif len(slug) > 63:
        rule = "must have at most 63 characters"
    elif slug in RESERVED:
        rule = "must not be a keyword of Python or YAML, or app"
    elif re.sub(r"[_-]+", "-", slug) in packages_of(answers):
        rule = "must not be the name of a package that the project uses"
    else:
        return None
    return f"project_slug {rule}, not {slug!r}"


def validate_answers(answers):
    """Return one line that names the first invalid answer and what is allowed, or None."""
    for name in TEXTS:
        value = answers[name]
        if not isinstance(value, str) or NOT_TEXT.search(value):
            return f"{name} must be text without control characters, not {value!r}"
    for name, allowed in CHOICES.items():
        if answers[name] not in allowed:
            return f"{name} must be one of {', '.join(allowed)}, not {answers[name]!r}"
    for name in BOOLEANS:
        if not isinstance(answers[name], bool):
            return (
                f"{name} must be true or false, not {answers[name]!r} "
                "(Cookiecutter before 2.7 passes text: upgrade it)"
            )
    return validate_slug(answers)


if message := validate_answers(ANSWERS):
    sys.exit(f"forge: {message}")

# Jinja runs this expression while the hook itself is rendered; files that are rendered afterwards
# see the change, however the answers arrived.
# {% if cookiecutter.use_celery is sameas true and cookiecutter.use_redis is sameas false %}
# {{ cookiecutter.update({"use_redis": true}) }}
with suppress(OSError):  # Standard output may be closed or full.
    os.write(1, b"forge: Celery needs Redis, so use_redis is now yes.\n")
# {% endif %}
