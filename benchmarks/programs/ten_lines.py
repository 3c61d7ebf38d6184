"""The limit: the statements and the message of a generated project's requests, and nothing else."""

import os
from uuid import uuid4

from app.core.database import get_engine
from app.models import User
from app.models.job import Job
from app.tasks.example_task import send_notification
from fastapi import FastAPI
from sqlalchemy.orm import Session

app = FastAPI()
USER = int(os.environ.get("USER_ID", "1"))


@app.get("/users/me")
def read_user():
    with Session(get_engine()) as session, session.begin():
        user = session.get(User, USER)
        return {"id": user.id, "email": user.email, "created_at": user.created_at}


@app.post("/notify", status_code=202)
def notify(user_id: int, message: str):
    task_id, arguments = str(uuid4()), {"user_id": user_id, "message": message}
    with Session(get_engine()) as session, session.begin():
        owner, task = session.get(User, USER).id, send_notification.name
        job = Job(id=task_id, task=task, args=[], kwargs=arguments, owner_id=owner, round=0)
        session.add(job)
    send_notification.apply_async(kwargs=arguments, task_id=task_id, ignore_result=True)
    return {"task_id": task_id, "status": "queued"}


@app.get("/health/live")
async def live():
    return {"status": "ok"}
