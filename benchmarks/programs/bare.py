"""What the benchmarks compare with: a bare Celery app."""

import os

from celery import Celery

broker, backend = os.environ["CELERY_BROKER_URL"], os.environ["CELERY_RESULT_BACKEND"]
celery_app = Celery("bare", broker=broker, backend=backend)


@celery_app.task
def noop(number):
    return number
