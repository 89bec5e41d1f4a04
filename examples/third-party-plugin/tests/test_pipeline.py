"""The parts work together, in the pipeline that the README shows."""

from pathlib import Path

from modbridge.cli import main

PIPELINE = Path(__file__).parents[1] / "pipeline.yaml"


def test_the_pipeline_runs(tmp_path: Path) -> None:
    assert main(["run", str(PIPELINE), "--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]) == 0
    assert (tmp_path / "run" / "predictions.jsonl").exists()
