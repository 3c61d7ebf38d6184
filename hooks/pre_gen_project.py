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
