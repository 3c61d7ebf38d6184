"""What the benchmarks compare with: a bare Celery app, and an API that calls it the naive way."""

import os

from celery import Celery

celery_app = Celery("bare", broker=os.environ["BARE_BROKER"], backend=os.environ["BARE_BACKEND"])


@celery_app.task
def noop(number):
    return number


if "BARE_API" in os.environ:
    from fastapi import FastAPI

    app = FastAPI()

    @app.post("/notify", status_code=202)
    async def notify(user_id: int, message: str):
        return {"task_id": noop.delay(user_id).id, "status": "queued"}

    @app.get("/health/live")
    async def live():
        return {"status": "ok"}
