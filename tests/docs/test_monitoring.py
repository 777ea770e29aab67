"""What operators install to watch a registry: the dashboard, the alerts and the page name metrics that there are."""

import json
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from registry.db.tables import Mirror
from registry.services.operating import measures
from registry.worker.metrics import WorkerMetrics
from tests.support.world import open_world

DOCS = Path(__file__).parents[2] / "docs"
OPERATE = DOCS / "guides" / "operate"
RULES = OPERATE / "prometheus-rules.yml"
NAME = r"\b(?:registry|process)_[a-z_]+"
SUMMARY = "No worker was seen for a minute, so nothing is checked or composed."
TOLD = "Start one (`crumb-server worker`); its log says why the last one ended."
WORKERS = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'registry_workers{{state="idle"}}', values: '0x20'}}
      - {{series: 'registry_workers{{state="busy"}}', values: '1x5 0x14'}}
      - {{series: 'registry_workers{{state="dead"}}', values: '3x20'}}
      - {{series: 'registry_scrub_age_seconds', values: '9000000x200'}}
      - {{series: 'registry_scrub_period_seconds', values: '0x200'}}
    alert_rule_test:
      - {{eval_time: 10m, alertname: CrumbNoWorker, exp_alerts: []}}
      - eval_time: 12m
        alertname: CrumbNoWorker
        exp_alerts:
          - exp_labels: {{severity: critical}}
            exp_annotations: {{summary: "{summary}", description: "{told}"}}
      - {{eval_time: 150m, alertname: CrumbScrubLate, exp_alerts: []}}
"""


@pytest.fixture(scope="module")
def existing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[str]]:
    """The names of all families of a server, its registry and a worker."""
    folder = tmp_path_factory.mktemp("registry")
    with open_world(folder / "data", f"sqlite:///{folder / 'registry.db'}") as world:
        text = (
            world.client("chief", admin=True).get("/metrics").text + generate_latest(WorkerMetrics().registry).decode()
        )
        with world.database.read() as session:
            names = {measure.name for measure in measures.of_bucket(session, 1)}
        with world.database.write() as session:
            session.add(Mirror(id=1, url="https://registry.example.org", registry_id=uuid.uuid4()))
            session.flush()
            names |= {measure.name for measure in measures.of_mirror(session)}
    for family in text_string_to_metric_families(text):
        if not family.name.endswith("_created"):
            names.add(f"{family.name}_total" if family.type == "counter" else family.name)
    yield names


def test_the_page_has_every_metric(existing: set[str]) -> None:
    page = (DOCS / "reference" / "metrics.md").read_text()
    assert set(re.findall(rf"^\| `({NAME})` \|", page, re.MULTILINE)) == existing


@pytest.mark.parametrize("file", ["prometheus-rules.yml", "grafana-dashboard.json"])
def test_rules_and_panels_ask_for_metrics_that_there_are(existing: set[str], file: str) -> None:
    text = (OPERATE / file).read_text()
    expressions = re.findall(r"expr: (?:>-\n)?((?:.*\n)(?: {10}.*\n)*)", text)
    if file.endswith(".json"):
        expressions = [target["expr"] for panel in json.loads(text)["panels"] for target in panel.get("targets", ())]
    asked = {re.sub(r"_(bucket|count|sum)$", "", name) for text in expressions for name in re.findall(NAME, text)}
    assert len(asked) > 10 and asked <= existing


def test_prometheus_takes_the_files_and_an_alert_goes_off_when_it_should(tmp_path: Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed")
    (tmp_path / "crumb-metrics-token").write_text("token")
    for file in (RULES, OPERATE / "prometheus.yml"):
        shutil.copy(file, tmp_path)
    (tmp_path / "workers.yml").write_text(WORKERS.format(rules=RULES, summary=SUMMARY, told=TOLD))
    for command in (("check", "config", "prometheus.yml"), ("test", "rules", "workers.yml")):
        done = subprocess.run([program, *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
