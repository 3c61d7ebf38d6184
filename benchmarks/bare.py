"""What the benchmarks compare with: a bare Celery app, and an API that calls it the naive way."""

import os

from celery import Celery
from fastapi import FastAPI

broker, backend = os.environ["CELERY_BROKER_URL"], os.environ["CELERY_RESULT_BACKEND"]
celery_app = Celery("bare", broker=broker, backend=backend)
app = FastAPI()


@celery_app.task
def noop(number):
    return number


@app.post("/notify", status_code=202)
async def notify(user_id: int, message: str):
    return {"task_id": noop.delay(user_id).id, "status": "queued"}


@app.get("/health/live")
async def live():
    return {"status": "ok"}
