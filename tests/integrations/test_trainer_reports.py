"""What `MetaqCallback` tells the logs and reporters of `transformers.Trainer`."""

import json

import pytest
from small_trainer import METHOD, InOrder, assert_same, classifier, ignore_pinning, trainer, weights_of

from metaq.integrations.transformers import MetaqCallback

pytestmark = ignore_pinning


def test_the_size_is_in_the_logs_and_measuring_changes_nothing(tmp_path):
    seldom, often = classifier(), classifier()
    run = trainer(tmp_path / "often", often, MetaqCallback(METHOD, measure_every=1), InOrder)
    run.train()
    trainer(tmp_path / "seldom", seldom, MetaqCallback(METHOD, measure_every=10**6), InOrder).train()
    assert_same(weights_of(often), weights_of(seldom))
    rows = [row for row in run.state.log_history if "loss" in row]
    assert len(rows) == 6
    for row in rows:
        assert row["size_bytes"] > 100
        assert 0 < row["entropy"] < row["bits_per_weight"] < 32
    written = json.loads((tmp_path / "often/checkpoint-24/trainer_state.json").read_text())
    assert written["log_history"][-1]["size_bytes"] == (tmp_path / "often/model.mtq").stat().st_size


def test_the_progress_bar_shows_the_size(tmp_path, capfd):
    trainer(tmp_path, classifier(), MetaqCallback(METHOD), disable_tqdm=False).train()
    output = capfd.readouterr()
    assert "'size_bytes'" in output.out + output.err


@pytest.mark.filterwarnings("ignore:.*_upb.*PyType_Spec:DeprecationWarning")
def test_tensorboard_shows_the_size(tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    trainer(tmp_path, classifier(), MetaqCallback(METHOD), report_to="tensorboard").train()
    events = accumulator.EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    for name in ("size_bytes", "bits_per_weight", "entropy"):
        assert [event.step for event in events.Scalars(f"train/{name}")][:2] == [4, 8]
    assert events.Scalars("train/size_bytes")[-1].value == (tmp_path / "model.mtq").stat().st_size


REPORTING = """
import sys
from small_trainer import METHOD, classifier, trainer
from metaq.integrations.transformers import MetaqCallback
folder, reporter = sys.argv[1:]
trainer(folder, classifier(), MetaqCallback(METHOD), report_to=reporter, run_name="small").train()
if reporter == "wandb":
    import wandb
    size_bytes = wandb.run.summary["train/size_bytes"]
    wandb.finish()
else:
    import mlflow
    run = mlflow.active_run() or mlflow.last_active_run()
    size_bytes = mlflow.MlflowClient().get_metric_history(run.info.run_id, "size_bytes")[-1].value
print(f"{size_bytes:.0f} bytes")
"""


@pytest.mark.slow
def test_wandb_and_mlflow_get_the_size(tmp_path, run_program):
    """Without a network: W&B offline, MLflow in a file. Both are large, and no part of what `[dev]` installs."""
    settings = {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/m.db",
    }
    for reporter in ("wandb", "mlflow"):
        pytest.importorskip(reporter)
        printed = run_program(REPORTING, reporter, **settings)
        assert f"{(tmp_path / 'model.mtq').stat().st_size} bytes" in printed
