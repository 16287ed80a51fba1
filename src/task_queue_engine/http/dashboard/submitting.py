"""The form that submits a task, made from what its type's payload is annotated with."""

from __future__ import annotations

from quart import Response, request

from task_queue_engine.engine.api import Submission
from task_queue_engine.errors import IdempotencyKeyInFlight, IdempotencyKeyReused, InvalidTask
from task_queue_engine.http.dashboard.payload_form import PayloadForm, payload_form
from task_queue_engine.http.dashboard.site import Form, Notice, Site, new_key, one
from task_queue_engine.http.middleware import PAGES
from task_queue_engine.http.principal import Role
from task_queue_engine.registry import TaskDefinition
from task_queue_engine.signatures import summary_of

SUBMIT = f"{PAGES}submit"
_DELAY, _DELAY_LABEL = "delay_seconds", "Start in"


class Submitting:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._state = site.state
        self._engine = site.engine

    async def form(self) -> Response:
        wanted = request.args.get("type")
        if wanted is None:
            get = self._engine.registry.get
            types = [(name, summary_of(get(name).handler)) for name in self._site.types()]
            return await self._site.page("submit.html", at="submit", definition=None, types=types)
        definition = self._definition(wanted)
        return await self._page(definition, self._form(definition), {})

    def _form(self, definition: TaskDefinition) -> PayloadForm:
        return payload_form(definition, self._state.settings.redact)

    def _definition(self, name: str) -> TaskDefinition:
        """Raises UnknownTaskType, ProblemError (403)."""
        self._state.types.check(self._site.principal, name)
        return self._engine.registry.get(name)

    async def _page(
        self,
        definition: TaskDefinition,
        fields: PayloadForm,
        given: Form,
        *,
        error: InvalidTask | None = None,
    ) -> Response:
        key = one(given, "idempotency_key") or new_key()
        wrong, trouble = ("", "") if error is None else _in_words(error, fields)
        return await self._site.page(
            "submit.html",
            at="submit",
            status=200 if error is None else 422,
            definition=definition,
            summary=summary_of(definition.handler),
            form=fields,
            given={name: values[0] for name, values in given.items()},
            was_sent=bool(given),
            wrong=wrong,
            trouble=trouble,
            delay_label=_DELAY_LABEL,
            delay=one(given, "delay"),
            idempotency_key=key,
        )

    async def submit(self) -> Response:
        """As POST /tasks, with what the form says in place of JSON. The form has an idempotency key
        of its own: pressed twice it submits once."""
        given = await self._site.form()
        definition = self._definition(one(given, "type"))
        fields = self._form(definition)
        asker = self._state.asker
        try:
            payload = fields.payload(given)
            delay = _delay(one(given, "delay").strip())
            with self._state.request_deadline():
                accepted = await self._engine.submit_task(
                    Submission(
                        task=definition.name,
                        payload=payload,
                        delay=delay,
                        idempotency_key=one(given, "idempotency_key") or None,
                    )
                )
        except InvalidTask as error:
            return await self._page(definition, fields, given, error=error)
        except (IdempotencyKeyReused, IdempotencyKeyInFlight) as error:
            again = {name: values for name, values in given.items() if name != "idempotency_key"}
            return await self._page(
                definition, fields, again, error=InvalidTask(str(error), field="form")
            )
        task = accepted.task
        asker.note(task_ids=(task.id,), task_types=(task.type,))
        notice = Notice(key="submitted", ids=[task.id])
        if asker.principal.may(Role.READ):
            return self._site.go_to(f"{PAGES}tasks/{task.id}", notice)
        return self._site.go_to(SUBMIT, notice)


def _in_words(error: InvalidTask, fields: PayloadForm) -> tuple[str, str]:
    """The form's member that is wrong, and why: under the names that the form shows."""
    if error.field == _DELAY:
        return "delay", f"{_DELAY_LABEL}: {error.reason}"
    wrong = fields.field_of(error.field)
    if wrong is not None:
        return wrong.id, f"{wrong.label}{error.field.removeprefix(wrong.id)}: {error.reason}"
    return "", error.reason if error.field in ("form", "payload") else str(error)


def _delay(text: str) -> float | None:
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        raise InvalidTask("must be a number of seconds", field=_DELAY) from None
    if not 0 <= seconds < float("inf"):
        raise InvalidTask("must be 0 or more seconds", field=_DELAY)
    return seconds
