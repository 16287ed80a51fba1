"""The alert rules, by Prometheus' own tool."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"


def promtool(programs: Path, *arguments: str | Path, stdin: str = "") -> str:
    done = subprocess.run(
        [programs / "promtool", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_each_alert_fires_where_it_should_and_nowhere_else(programs: Path, tmp_path: Path) -> None:
    promtool(programs, "check", "rules", ALERTS)
    # promtool would compare the texts too, which are for people.
    bare = [{**rule, "annotations": {}} for rule in rules()]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "all", "rules": bare}]}))
    text = Path(__file__).with_name("alerts_test.yml").read_text(encoding="utf-8")
    tests = yaml.safe_load(text.replace("RULES", "rules.yml"))
    well, ill = tests["tests"]
    names = [rule["alert"] for rule in bare]
    well["alert_rule_test"] = [
        {"eval_time": "115m", "alertname": name, "exp_alerts": []} for name in names
    ]
    fires = {one["alertname"] for one in ill["alert_rule_test"] if one["exp_alerts"]}
    assert fires == set(names), "each has a case in which it fires"
    (tmp_path / "tests.yml").write_text(json.dumps(tests))

    promtool(programs, "test", "rules", tmp_path / "tests.yml")


def test_every_alert_says_what_to_make_of_it() -> None:
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
