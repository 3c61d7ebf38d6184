"""The environment of the tests. It is set here, since settings are read when ``app`` is imported."""

import os
import secrets
{{ "import tempfile\n" if cookiecutter.use_backup }}
{{ "from tests.servers import redis_url\n" if cookiecutter.use_redis }}from tests.servers.database import DATABASE_URL

os.environ |= {
    "ENVIRONMENT": "development",
    "SECRET_KEY": secrets.token_hex(),
    "DATABASE_URL": DATABASE_URL,
    # All tests have one client address.
    "LOGIN_ADDRESS_RATE_LIMIT": "10000/minute",
{% if cookiecutter.use_redis %}
    "REDIS_URL": redis_url(0),
{% endif %}
{% if cookiecutter.use_celery %}
    "CELERY_BROKER_URL": redis_url(1),
    "CELERY_RESULT_BACKEND": redis_url(2),
    "CELERY_WORKER_CONCURRENCY": "2",
{% endif %}
}
{% if cookiecutter.use_backup %}
backups = tempfile.TemporaryDirectory()
os.environ["BACKUP_DIR"] = backups.name
{% endif %}
