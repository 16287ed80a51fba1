"""/dead-letters: what was given up, and what to do about it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from quart import Quart, Response, request
from quart_schema import document_querystring, document_request, document_response, tag

from task_queue_engine.engine.views import DeadLetterList, PurgeResult
from task_queue_engine.http.access import check_all_types
from task_queue_engine.http.app_state import AppState
from task_queue_engine.http.bodies import decode_redrive
from task_queue_engine.http.requests import Query, read_json
from task_queue_engine.http.responses import respond
from task_queue_engine.http.schemas import (
    DeadLetterParameters,
    RedriveRequest,
    RedriveResult,
)

TAG = "dead letters"

# Of a request's time limit: after this part of it a redrive begins no further batch, so that the
# one under way can end and the answer with its count is in time.
_SHARE = 3


class DeadLetterRoutes:
    def __init__(self, state: AppState) -> None:
        self._state = state
        self._engine = state.engine
        self._types = state.types

    def register(self, app: Quart) -> None:
        path = "/dead-letters"
        app.add_url_rule(path, "list_dead_letters", self.list_dead_letters, methods=["GET"])
        app.add_url_rule(path, "purge_dead_letters", self.purge_dead_letters, methods=["DELETE"])
        app.add_url_rule(
            f"{path}/redrive", "redrive_dead_letters", self.redrive_dead_letters, methods=["POST"]
        )

    @tag([TAG])
    @document_querystring(DeadLetterParameters)
    @document_response(DeadLetterList)
    async def list_dead_letters(self) -> Response:
        """List dead letters.

        A page for a key that is for some task types only may have fewer than there are places on
        it, or none; and on SQS any page, where tasks have been retried since. `next_cursor` says
        whether there are more.
        """
        query = Query(request, ("limit", "cursor"))
        with self._state.request_deadline():
            page = await self._engine.list_dead(limit=query.limit(), cursor=query.cursor())
        principal = self._state.asker.principal
        if principal.types is not None:
            own = [each for each in page.dead_letters if self._types.has(principal, each.task_type)]
            page = replace(page, dead_letters=tuple(own))
        return respond(DeadLetterList.of(page))

    @tag([TAG])
    @document_request(RedriveRequest)
    @document_response(RedriveResult)
    async def redrive_dead_letters(self) -> Response:
        """Put dead letters back to work.

        The body says which: `{"ids": ["...", ...]}` or `{"all": true}`. Their tasks start a new
        round. A request does what it can in a third of the server's time limit and says what it has
        done; where `remaining` is not 0 repeat it, for all with `"limit": remaining`, so that what
        fails again meanwhile is not redriven for ever.
        """
        wanted = decode_redrive(await read_json(request))
        asker = self._state.asker
        principal = asker.principal
        if wanted.all:
            check_all_types(principal, field="all")
        is_own = None if principal.types is None else partial(self._types.has, principal)
        with self._state.request_deadline():
            report = await self._engine.redrive(
                wanted.ids,
                limit=wanted.limit,
                within=self._state.settings.request_timeout / _SHARE,
                of_type=is_own,
            )
        asker.note(
            redriven=report.redriven,
            skipped=report.skipped,
            refused=report.refused,
            not_found=report.not_found,
            remaining=report.remaining,
        )
        return respond(
            RedriveResult(
                redriven=report.redriven,
                skipped=report.skipped,
                refused=report.refused,
                not_found=report.not_found,
                remaining=report.remaining,
            )
        )

    @tag([TAG])
    @document_response(PurgeResult)
    async def purge_dead_letters(self) -> Response:
        """Delete all dead letters. Their tasks stay as they are."""
        with self._state.request_deadline():
            purged = await self._engine.purge_dead()
        self._state.asker.note(purged=purged)
        return respond(PurgeResult(purged=purged))
