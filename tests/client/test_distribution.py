"""What `task-queue-engine-client` is made of, and that it takes nothing else."""

from __future__ import annotations

from tests.client.light import DISTRIBUTION, ROOT, LightEnvironment, pyproject
from tests.test_imports import loaded_by

PACKAGE = "task_queue_engine"

EVERY_MODULE = """
import importlib, pkgutil, task_queue_engine
for module in pkgutil.walk_packages(task_queue_engine.__path__, "task_queue_engine."):
    importlib.import_module(module.name)
    print(module.name)
"""
DISTRIBUTIONS = """
import importlib.metadata
print(*sorted(one.name for one in importlib.metadata.distributions()))
"""
WHAT_IS_NOT_IN_IT = """
import task_queue_engine
try:
    task_queue_engine.Engine
except ImportError as error:
    print(error)
class Model:
    __pydantic_validator__ = None
try:
    @task_queue_engine.TaskRegistry().task("t")
    def handler(payload: Model) -> None: ...
except task_queue_engine.TaskQueueError as error:
    print(error)
"""


def modules_of(paths: list[str]) -> set[str]:
    modules: set[str] = set()
    for path in paths:
        place = ROOT / path
        for file in [place] if place.is_file() else place.rglob("*.py"):
            parts = file.relative_to(ROOT / "src").with_suffix("").parts
            modules.add(".".join(part for part in parts if part != "__init__"))
    return modules - {f"{PACKAGE}.py"}


def test_it_holds_what_a_client_imports_and_nothing_else() -> None:
    described = pyproject(DISTRIBUTION)["tool"]["hatch"]["build"]["only-include"]
    listed = modules_of([path for path in described if not path.endswith("py.typed")])
    (loaded,) = loaded_by(f"import {PACKAGE}.client")
    assert listed == {name for name in loaded if name.partition(".")[0] == PACKAGE}


def test_every_module_of_it_can_be_imported_by_itself(light: LightEnvironment) -> None:
    assert f"{PACKAGE}.client.calls" in light.run("-c", EVERY_MODULE).split()


def test_it_brings_few_distributions(light: LightEnvironment) -> None:
    names = set(light.run("-c", DISTRIBUTIONS).split())
    names -= {"sniffio", "typing_extensions"}  # some of what older ones bring
    taken = {"anyio", "certifi", "h11", "httpcore", "httpx", "idna", "msgspec"}
    assert names == taken | {"task-queue-engine-client"}


def test_what_is_not_in_it_says_so(light: LightEnvironment) -> None:
    engine, model = light.run("-c", WHAT_IS_NOT_IN_IT).splitlines()
    assert engine.startswith("Engine is not in task-queue-engine-client")
    assert model.endswith("Model takes pydantic, which is not installed")


def test_its_ranges_are_the_engine_s() -> None:
    ours, whole = (pyproject(folder)["project"] for folder in (DISTRIBUTION, ROOT))
    assert set(ours["dependencies"]) <= set(whole["dependencies"])
    assert ours["requires-python"] == whole["requires-python"]


def test_its_licence_is_the_engine_s() -> None:
    """A link would be one in the source distribution too, to nowhere."""
    assert (DISTRIBUTION / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert not (DISTRIBUTION / "LICENSE").is_symlink()
    assert (DISTRIBUTION / "src").resolve() == ROOT / "src"
