"""The calls of the Go service that this engine succeeds, replayed against local servers.

    python -m benchmarks.aws.predecessor --endpoints SQS_URL DYNAMODB_URL --tasks 1500

Sixteen submitters (PutItem, then SendMessage) beside its five workers, each of which receives ten
messages and handles them one after the other: two status writes and a delete each. Its HTTP front
end, its garbage collector and its own CPU are not in it: what is told of it is how long its calls
take where each has to wait for the one before. Prints one JSON line: {"result": {...}}.
"""

from __future__ import annotations

import argparse
import statistics
import time

import trio

from benchmarks.aws.cost.observed import ObservedClient
from benchmarks.aws.cost.reference import Reference, reference_provisioned
from benchmarks.aws.cost.shapes import SHAPES
from benchmarks.phases import Result, tell_result
from local_aws.pairs import LocalAws, Pair
from local_aws.servers import LocalServer

SUBMITTERS = 16
WORKERS = 5

_SHAPE = SHAPES["100 B"]
# Submissions with nothing else under way, for the time that one takes.
_ALONE = 20
_MOST_SECONDS = 240


async def run(direct: LocalAws, asked: LocalAws, tasks: int) -> Result:
    """
    Args:
        direct: the servers themselves, for queues and table.
        asked: what the service knows of: the same, or a proxy of each.
    """
    queue, dead, table = await trio.to_thread.run_sync(reference_provisioned, direct)
    client = ObservedClient(**asked.client_options())
    service = Reference(client, queue, dead, table)
    done = 0
    with trio.fail_after(_MOST_SECONDS):
        async with client.open(), trio.open_nursery() as nursery:
            alone = []
            for _ in range(_ALONE):
                began = time.perf_counter()
                await service.submit(_SHAPE)
                alone.append(time.perf_counter() - began)
            began = time.perf_counter()

            def one_more(count: int) -> None:
                nonlocal done
                done += count
                if done == _ALONE + tasks:
                    nursery.cancel_scope.cancel()

            for _ in range(WORKERS):
                nursery.start_soon(lambda: service.work(_SHAPE, one_more, in_turn=True))
            numbers = iter(range(tasks))

            async def submit() -> None:
                for _ in numbers:
                    await service.submit(_SHAPE)

            async with trio.open_nursery() as submitting:
                for _ in range(SUBMITTERS):
                    submitting.start_soon(submit)
            submitted = time.perf_counter() - began
    seconds = time.perf_counter() - began
    return {
        "tasks_per_second": tasks / seconds,
        "posts_per_second": tasks / submitted,
        "post_alone_ms": statistics.median(alone) * 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.aws.predecessor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", type=int, default=1500)
    parser.add_argument("--endpoints", nargs=2, required=True, metavar="URL")
    parser.add_argument("--through", nargs=2, metavar="URL", help="proxies of the two")
    args = parser.parse_args()

    def servers(urls: list[str]) -> LocalAws:
        queue, table = map(LocalServer, ("fauxqs", "ministack"), urls)
        return LocalAws(Pair("fauxqs", "ministack"), queue, table)

    direct = servers(args.endpoints)
    asked = servers(args.through or args.endpoints)
    tell_result(trio.run(run, direct, asked, args.tasks))


if __name__ == "__main__":
    main()
