"""Everything that uses a model works where PyTorch, transformers and Lightning cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from reactometer.data.cache import PreparedSet

BLOCKED = ("torch", "transformers", "lightning")

BLOCK = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
"""
"""Python runs this when a process starts, workers included."""


def test_a_model_is_used_without_pytorch(
    model_folder: Path, prepared: PreparedSet, simulated: Path, tmp_path: Path
) -> None:
    clip = min((simulated / "test" / "mp4").iterdir())
    (tmp_path / "sitecustomize.py").write_text(BLOCK, encoding="utf-8")
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    command = [sys.executable, __file__, *map(str, (clip, model_folder, prepared.folder, tmp_path / "out"))]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


def _use(clip: Path, model: Path, data: Path, out: Path) -> None:
    """Predict, evaluate, report, explain, run into a folder, score live and serve."""
    from starlette.testclient import TestClient

    from reactometer.attribution.occlusion import explain
    from reactometer.attribution.report import write_attribution
    from reactometer.batch.run import predict_folder
    from reactometer.evaluation.evaluate import evaluate
    from reactometer.evaluation.report import report
    from reactometer.inference.checkpoint import load_model
    from reactometer.inference.predictor import predict_files
    from reactometer.live.scorer import LiveScorer
    from reactometer.media.video import read_frames
    from reactometer.serving.app import build_app
    from reactometer.serving.queue import Settings

    loaded = load_model(model)
    (prediction,) = predict_files(clip, loaded, progress=False)
    assert prediction.status == "ok"
    assert evaluate(loaded, data, n_resamples=100, out=out, progress=False).metrics.n_clips == 10
    assert report(model, data, out / "report", robustness=False, progress=False).is_file()
    assert len(list(write_attribution(explain(clip, loaded, progress=False), out))) == 2
    assert not predict_folder(clip, out / "results", model, workers=1, progress=False).failures
    scorer = LiveScorer(loaded)
    for frame in read_frames(clip):
        scorer.add_frame(frame.time_s, frame.rgb() if frame.rgb else None)
    score = scorer.score()
    assert score and score.intensities
    with TestClient(build_app(loaded, model, Settings(out / "service", readers=1))) as client:
        answer = client.post("/v1/predictions", files={"file": ("clip.mp4", clip.read_bytes())})
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"][0]["status"] == "ok"


if __name__ == "__main__":
    _use(*map(Path, sys.argv[1:]))
    assert not sys.modules.keys() & set(BLOCKED)
