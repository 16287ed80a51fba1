"""Who may change what travels: as `messages` says, and no actor reaches into another."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import task_queue_engine.actors
from task_queue_engine.actors.messages import Lease

ACTORS = Path(task_queue_engine.actors.__file__).parent
WRITERS = {
    "delivery": ["lease_keeper"],
    "expires_at": ["lease_keeper"],
    "lost": ["lease_keeper"],
    "cancel_asked": ["lease_keeper"],
    "attempt": ["claimer", "poller"],
    "settling": ["acker", "status_writer"],
    "started": ["poller"],
    "claimed_ahead": ["poller", "claimer"],
}
"""Field of a lease to the modules that write it: the second one where the first has not come to it,
or does not any more."""
AS_IT_IS_MADE = {"started": {"poller"}, "claimed_ahead": {"poller"}}
"""By its maker, which does so in the call."""
ACTORS_AND_PARTS = {
    "acker": set(),
    "claim_buffer": set(),
    "claimer": {
        "claim_buffer",
        "crash_isolation",
        "demand",
        "pace",
        "store_claims",
        "type_check",
        "unstarted",
    },
    "crash_isolation": set(),
    "demand": {"pace"},
    "lease_keeper": set(),
    "metrics": set(),
    "pace": set(),
    "poller": set(),
    "reconciler": set(),
    "scheduler": set(),
    "status_writer": set(),
    "store_claims": set(),
    "submitter": set(),
    "type_check": set(),
    "unstarted": set(),
    "worker": set(),
}
"""Module of an actor to the parts it is made of, which are no actors."""


def assigned(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(what, attribute) of every `what.attribute = ...`."""
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.For):
            targets = [node.target]
        for target in targets:
            for part in ast.walk(target):
                if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                    yield ast.unparse(part.value), part.attr


def test_every_field_of_a_lease_is_written_by_those_that_own_it() -> None:
    assert set(WRITERS) == {field.name for field in fields(Lease)}
    writers: dict[str, set[str]] = {}
    for path in ACTORS.glob("*.py"):
        for what, attribute in assigned(ast.parse(path.read_text(encoding="utf-8"))):
            if attribute in WRITERS and what != "self":
                writers.setdefault(attribute, set()).add(path.stem)
    for field, makers in AS_IT_IS_MADE.items():
        writers[field] = writers.get(field, set()) | makers
    assert writers == {field: set(owners) for field, owners in WRITERS.items()}


@pytest.mark.parametrize("field", WRITERS)
def test_its_writers_are_named_beside_it(field: str) -> None:
    tree = ast.parse((ACTORS / "messages.py").read_text(encoding="utf-8"))
    (lease,) = (
        node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "Lease"
    )
    named = False
    for before, after in zip(lease.body, lease.body[1:], strict=False):
        if (
            isinstance(before, ast.AnnAssign)
            and ast.unparse(before.target) == field
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            said = str(after.value.value).partition(":")[0]
            owners = [f"he {owner.replace('_', ' ')}'s" for owner in WRITERS[field]]
            named = all(owner in said for owner in owners) and said.count("'s") == len(owners)
    assert named


@pytest.mark.parametrize("actor", ACTORS_AND_PARTS)
def test_no_actor_knows_another(actor: str) -> None:
    tree = ast.parse((ACTORS / f"{actor}.py").read_text(encoding="utf-8"))
    imported = {
        node.module.rpartition(".")[2]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module is not None
    }
    assert imported & set(ACTORS_AND_PARTS) == ACTORS_AND_PARTS[actor]
