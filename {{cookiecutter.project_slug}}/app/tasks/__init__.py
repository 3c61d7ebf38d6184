"""Background tasks. Every module in this folder is found by itself.

Importing any of them loads the Celery app first: a task enqueued without it would go to Celery's
default broker, not to ours.
"""

import app.core.celery  # noqa: F401
