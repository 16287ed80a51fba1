"""All pages of one app, put together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from quart import Response

from task_queue_engine.http.app_state import AppState
from task_queue_engine.http.dashboard.changes import Changes
from task_queue_engine.http.dashboard.looks import Looks
from task_queue_engine.http.dashboard.many import ManyTasks
from task_queue_engine.http.dashboard.overview import Overview
from task_queue_engine.http.dashboard.signing_in import SigningIn
from task_queue_engine.http.dashboard.site import Site
from task_queue_engine.http.dashboard.submitting import Submitting

Handler = Callable[..., Awaitable[Response]]


class Dashboard:
    """
    Args:
        has_events: the server tells of what happens at /events.
    """

    def __init__(self, state: AppState, *, has_events: bool) -> None:
        site = Site(state, has_events=has_events)
        many = ManyTasks(site)
        looks, changes = Looks(site), Changes(site, many)
        signing_in, submitting = SigningIn(site), Submitting(site)
        self.overview = Overview(site).page
        self.answer_error = signing_in.answer_error
        self.handlers: dict[str, Handler] = {
            "page_tasks": looks.tasks,
            "page_task": looks.task,
            "page_workers": looks.workers,
            "page_dead_letters": looks.dead_letters,
            "page_cancel": changes.cancel,
            "page_retry": changes.retry,
            "page_redrive_tasks": changes.redrive_tasks,
            "page_delete": changes.delete,
            "page_action": many.confirm,
            "page_start_action": many.start,
            "page_undo_action": many.undo,
            "page_redrive": changes.redrive,
            "page_purge": changes.purge,
            "page_submit": submitting.form,
            "page_submit_task": submitting.submit,
            "page_login": signing_in.form,
            "page_log_in": signing_in.log_in,
            "page_log_out": signing_in.log_out,
            "page_theme": signing_in.theme,
            "page_static": site.static,
        }
