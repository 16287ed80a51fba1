"""The report says what was measured, where it falls short, and where others are better."""

from __future__ import annotations

import tomllib
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.__main__ import command_of, parse
from benchmarks.engine import Build
from benchmarks.measuring import Measurement, measure_all
from benchmarks.record import Record
from benchmarks.rows import ROWS
from benchmarks.rows.base import Case, Column, Goal, Ratio, Row, Setup, value

from benchmarks import record, report

OTHER = "Other, Redis"


def row(**changes: object) -> Row:
    plain = Row(
        name="drain",
        title="A full queue of no-op tasks",
        how="So and so.",
        columns={
            "speed": Column(heading="tasks/s", better="more", plotted=True),
            "cost": Column(heading="CPU us/task", better="less", plotted=True),
        },
        cases=lambda setup: [],
        goals=[
            Goal(text="times the other", number=Ratio("this engine", OTHER, "speed"), least=2.0)
        ],
        peers=True,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]  # fields of Row


def found(rounds: list[dict[str, dict[str, float]]], **failures: str) -> Record:
    return Record(
        row="drain",
        command='make bench ARGS="--rows drain"',
        measured_on="2030-01-01",
        quick=False,
        against=None,
        seconds=60.0,
        machine={"cpu": "A CPU", "cores": 2, "memory_gib": 8, "kernel": "Linux 6"}
        | {"python": "3.11.7", "version": "1.2.3", "commit": "abc1234"},
        cases={"this engine": "as it comes", OTHER: "other 1.0, appendonly", "Gone": "gone 2.0"},
        rounds=rounds,
        failures=failures,
    )


def test_a_ratio_is_of_two_runs_of_the_same_round_and_its_median_is_judged() -> None:
    """The machine's clock changes between rounds: 100 to 50 and 10 to 4 is 2.0 and 2.5."""
    rounds = [
        {"this engine": {"speed": 100.0}, OTHER: {"speed": 50.0}},
        {"this engine": {"speed": 10.0}, OTHER: {"speed": 4.0}},
        {"this engine": {"speed": 50.0}},  # the other one failed
    ]
    (goal,) = row().goals

    assert report.judged(goal, found(rounds)) == ("2.25 (2.00 to 2.50): 50.0 against 27.0", "met")
    assert report.judged(replace(goal, least=2.3), found(rounds))[1] == "**falls short**"


def test_a_goal_that_was_not_measured_says_what_it_takes() -> None:
    goal = Goal(text="x", number=value("nobody", "speed"), least=1.0, needs="`--against COMMIT`")

    assert report.judged(goal, found([{}])) == ("not measured; needs `--against COMMIT`", "")
    assert report.judged(goal, None)[0].startswith("not measured")


def test_the_section_names_settings_failures_and_where_another_one_wins() -> None:
    record_ = found(
        [
            {
                "this engine": {"speed": 100.0, "cost": 7.0},
                OTHER: {"speed": 50.0, "cost": 5.0},
            }
        ],
        Gone="it did not start",
    )
    text = report.section(row(), record_, "benchmarks/drain.svg", "Because.")

    assert "Better than this engine as it comes: CPU us/task (7): Other, Redis (5)." in text
    assert "- Gone failed: it did not start" in text
    assert "- Other, Redis: other 1.0, appendonly" in text
    assert "Because." in text
    assert "| Gone |" not in text


def test_the_report_is_made_of_the_results_alone(tmp_path: Path) -> None:
    """Nothing of the machine but what the results say; every row stands there, measured or not."""
    record.save(
        found([{"this engine": {"tasks_per_second": 1.0 / 3, "cpu_us_per_task": 2.0}}]), tmp_path
    )
    target = tmp_path / "benchmarks.md"
    report.write(tmp_path, target)
    text = target.read_text(encoding="utf-8")

    assert "A CPU, 2 cores" in text
    assert all(f"[{name}](#" in text for name, each in ROWS.items() if each.goals)
    assert str(tmp_path) not in text
    assert "0.33333" in (tmp_path / "drain.json").read_text(encoding="utf-8")
    drawing = ElementTree.fromstring((tmp_path / "benchmarks/drain.svg").read_text())
    assert drawing.tag.endswith("svg")


def test_a_case_that_fails_is_written_down_and_stops_nothing(tmp_path: Path) -> None:
    order: list[str] = []

    def works() -> dict[str, float]:
        order.append("works")
        return {"speed": 1.0}

    def fails() -> dict[str, float]:
        order.append("fails")
        raise RuntimeError("no /opt/thing/bin/program here")

    cases = [Case(name="works", measure=works), Case(name="fails", measure=fails)]
    setup = Setup(folder=tmp_path, ours=Build(tmp_path, "abc1234"))
    measurement = Measurement(row(cases=lambda setup: cases), setup, 2, "make bench")
    measurement.one_round()
    measurement.one_round()
    result = measurement.record()

    assert order == ["works", "fails", "fails", "works"]  # forwards, then backwards
    assert result.rounds == [{"works": {"speed": 1.0}}] * 2
    assert result.failures == {"fails": "no (path) here"}  # without a path of this machine


def test_every_row_has_its_first_round_and_no_further_one_beyond_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[Record] = []
    monkeypatch.setattr(record, "save", saved.append)
    setup = Setup(folder=tmp_path, ours=Build(tmp_path, "abc1234"))
    case = Case(name="works", measure=lambda: {"speed": 1.0})
    measurements = [Measurement(row(cases=lambda setup: [case]), setup, 3, "") for _ in range(2)]

    measure_all(measurements, deadline=float("-inf"))

    assert [len(each.record().rounds) for each in measurements] == [1, 1]
    assert len(saved) == 2  # what was found is kept at once


def test_the_command_of_a_row_measures_it_again_wherever_it_is_read() -> None:
    args = parse(["--rows", "drain", "latency", "--quick", "--against", "/somewhere/else"])

    assert command_of(ROWS["drain"], args, Build(Path("/somewhere/else/src"), "abc1234")) == (
        'make bench ARGS="--rows drain --quick --against abc1234"'
    )


def test_nonsense_is_refused_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from benchmarks.engine import checked_out

    with pytest.raises(SystemExit, match="nothing-of-the-kind is neither a commit"):
        checked_out("nothing-of-the-kind", tmp_path)
    with pytest.raises(SystemExit):
        parse(["--rows", "speed"])
    assert "speed" in capsys.readouterr().err


def test_the_report_that_is_checked_in_is_the_one_its_results_make(tmp_path: Path) -> None:
    """Edited by hand, or a row changed since: `make bench ARGS=--report` makes it anew."""
    target = tmp_path / "benchmarks.md"
    report.write(record.RESULTS, target)

    assert target.read_text(encoding="utf-8") == report.REPORT.read_text(encoding="utf-8")
    for plot in target.with_suffix("").iterdir():
        assert plot.read_bytes() == (report.REPORT.with_suffix("") / plot.name).read_bytes()


def test_an_explanation_belongs_to_a_row() -> None:
    explanations = tomllib.loads(report.EXPLANATIONS.read_text(encoding="utf-8"))

    assert set(explanations) <= set(ROWS)
