"""Checks every answer and applies "Celery needs Redis" before a file is written.

Cookiecutter checks what is typed at a prompt, but not what a replay file holds, so all of it is
checked here. The answers arrive as JSON text: nothing that was answered is ever executed.
"""

import json
import keyword
import re
import sys

# tojson writes ' as an escape, so no answer can end this string.
ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")

# Equal to cookiecutter.json; tests/test_answers.py compares them.
CHOICES = {
    "python_version": ["3.13", "3.12", "3.11"],
    "database": ["sqlite", "postgresql", "mysql"],
}
BOOLEANS = ["use_celery", "use_redis", "use_backup", "use_docker"]
TEXTS = ["project_name", "description", "author_name"]

# Distributions that a project may depend on directly: a project of the same name would depend on
# itself. tests/test_answers.py compares them with the pyproject.toml files that are generated.
DEPENDENCIES = [
    "alembic",
    "asgi-correlation-id",
    "celery",
    "celery-redbeat",
    "celery-types",
    "cryptography",
    "fastapi",
    "flower",
    "honcho",
    "httpx2",
    "isal",
    "kombu",
    "limits",
    "mypy",
    "psycopg",
    "pwdlib",
    "pydantic",
    "pydantic-settings",
    "pyjwt",
    "pymysql",
    "pytest",
    "python-multipart",
    "redis",
    "rich",
    "ruff",
    "sqlalchemy",
    "structlog",
    "typer",
    "types-pymysql",
    "uvicorn",
    "watchfiles",
]


def problem(answers):
    """Return a line that names the first bad answer and what is allowed, or None."""
    for name in TEXTS:
        value = answers[name]
        if not isinstance(value, str) or re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", value):
            return f"{name} must be text without control characters, not {value!r}"
    slug = answers["project_slug"]
    if not isinstance(slug, str) or not re.fullmatch(r"[a-z][a-z0-9_-]*(?<![_-])", slug):
        return (
            f"project_slug must start with a small letter, hold only small letters, digits, "
            f"- and _, and end with a letter or digit, not {slug!r}"
        )
    if keyword.iskeyword(slug) or slug == "app":
        return f"project_slug must not be a Python keyword or app, not {slug!r}"
    if re.sub(r"[_-]+", "-", slug) in DEPENDENCIES:
        return f"project_slug must not be the name of a package the project uses, not {slug!r}"
    for name, allowed in CHOICES.items():
        if answers[name] not in allowed:
            return f"{name} must be one of {', '.join(allowed)}, not {answers[name]!r}"
    for name in BOOLEANS:
        if not isinstance(answers[name], bool):
            return (
                f"{name} must be true or false, not {answers[name]!r} "
                "(Cookiecutter before 2.7 passes text: upgrade it)"
            )
    return None


found = problem(ANSWERS)
if found:
    sys.exit(f"forge: {found}")

# Jinja runs this line while the hook itself is rendered; files rendered later see the change,
# whichever way the answers came in.
# {% if cookiecutter.use_celery is sameas true and cookiecutter.use_redis is sameas false %}
# {{ cookiecutter.update({"use_redis": true}) }}
print("forge: Celery needs Redis, so use_redis is now yes.")
# {% endif %}

# Files without a condition are copied as they are: rendering them too would take a third of a bake.
# Set here and not in cookiecutter.json, because a replay would bring back an older list. Files
# only: Cookiecutter empties a folder before it copies it. tests/test_bake.py checks the list.
# {% set copied = "
#  .dockerignore .pre-commit-config.yaml app/__init__.py app/api/__init__.py app/api/deps.py
#  app/api/routes/auth.py app/api/routes/tasks.py app/api/routes/users.py
#  app/backup/__init__.py app/backup/__main__.py app/backup/create.py
#  app/backup/engines/base.py app/backup/engines/mysql.py
#  app/backup/engines/mysql_programs.py app/backup/engines/mysql_rows.py
#  app/backup/engines/postgresql.py app/backup/engines/sqlite.py app/backup/errors.py
#  app/backup/restore.py app/backup/retention.py app/backup/store.py app/backup/stream.py
#  app/backup/tools.py app/core/__init__.py app/core/broker.py app/core/config/__init__.py
#  app/core/config/app.py app/core/config/base.py app/core/config/celery.py
#  app/core/config/redis.py app/core/database.py app/core/heartbeat.py
#  app/core/idempotency.py app/core/logging.py app/core/publisher.py app/core/redis.py
#  app/core/security.py app/core/worker.py app/models/*.py app/services/__init__.py
#  app/services/jobs.py app/tasks/*.py dev/*.py migrations/script.py.mako migrations/versions/*.py
#  tests/__init__.py tests/backup/__init__.py tests/backup/conftest.py
#  tests/backup/dialect_mysql.py tests/backup/dialect_postgresql.py
#  tests/backup/dialect_sqlite.py tests/backup/test_mysql_rows.py tests/servers/*.py
#  tests/test_auth.py tests/test_celery.py tests/test_health.py tests/test_idempotency.py
#  tests/test_jobs.py tests/test_migrations.py tests/test_redis.py tests/test_worker.py
# " %}
# {{ cookiecutter.update({"_copy_without_render": copied.split() | reject("eq", "#") | list}) }}
