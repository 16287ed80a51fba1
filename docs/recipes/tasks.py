"""The task types of a shop: its workers run them, and what submits them imports them too."""

from dataclasses import dataclass

from task_queue_engine import TaskRegistry

tasks = TaskRegistry()


@dataclass
class Order:
    number: int
    city: str


@dataclass
class Parcel:
    order: int
    label: str


@tasks.task("pack", timeout=60)
def pack(order: Order) -> Parcel:
    return Parcel(order.number, f"{order.city} #{order.number}")
