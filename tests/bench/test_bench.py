"""The benches run, compare like with like, and tell what they promise. Nothing here depends on how fast they are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from caloforge.bench import generation, sampling
from caloforge.bench.machine import describe_machine, matrix_rate, time_calls
from caloforge.bench.nflows_peer import build_peer, invert_peer, one_pass
from caloforge.cli.main import main
from caloforge.models import load_preset
from caloforge.nn import MaskedAutoregressiveFlow
from caloforge.nn.permutations import alternating_within_layers


def small_flow(masks: sampling.MaskKind = "published", seed: int = 0) -> MaskedAutoregressiveFlow:
    torch.manual_seed(seed)
    return MaskedAutoregressiveFlow(
        features=12,
        context_features=4,
        blocks=2,
        hidden_features=24,
        hidden_layers=1,
        masks=masks,
        permutations=alternating_within_layers((4, 8), 2, seed=seed),
    ).eval()


def test_published_flow_has_the_published_size_and_cost() -> None:
    """18.9 and 23.0 million multiply-adds: counted from the masks by hand in the documentation."""
    assert sum(p.numel() for p in sampling.published_flow().parameters()) == 37_835_280
    assert round(sampling.multiply_adds(sampling.published_flow("published")) / 1e6, 1) == 23.0
    assert round(sampling.multiply_adds(sampling.published_flow("even")) / 1e6, 1) == 18.9


def test_peer_and_ours_agree_and_one_pass_is_one_of_its_passes() -> None:
    pytest.importorskip("nflows")
    flow = small_flow()
    peer = build_peer(flow)
    z, context = torch.randn(5, 12), torch.randn(5, 4)
    with torch.no_grad():
        ours = flow.inverse(z, context)[0]
    assert torch.allclose(invert_peer(peer, z, context), ours, atol=1e-5)
    seen = []
    block = peer._transform._transforms[0]
    block.autoregressive_net.register_forward_hook(lambda *_: seen.append(1))
    one_pass(peer, z, context)
    assert len(seen) == 1
    block.inverse(z, context)
    assert len(seen) == 1 + flow.features


def test_sampling_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nflows")
    monkeypatch.setattr(sampling, "published_flow", small_flow)
    out = tmp_path / "s.json"
    command = [
        "bench",
        "sampling",
        "--batch",
        "3",
        "--threads",
        "1",
        "--seconds",
        "0",
        "--against",
        "nflows",
        "--passes",
        "2",
    ]
    assert main([*command, "--geant4", "0", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert [(row["batch"], row["threads"]) for row in result["rows"]] == [(3, 1)]
    for row in result["rows"]:
        assert row["max_abs_diff"] < 1e-4
        assert row["ratio_nflows"] == pytest.approx(row["nflows_ms_per_shower"] / row["ms_per_shower"])
        assert row["ms_lowest"] <= row["ms_per_shower"] <= row["ms_highest"]
        assert row["ratio_geant4"] is None
    assert all(row["ratio_nflows"] is None for row in result["rows_even_masks"])
    assert any("passes" in note for note in result["notes"])


def test_generation_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = generation.starting_model("caloflow-tiny", ("model.energy_scale=1.0",))
    monkeypatch.setattr(generation, "starting_model", lambda: model)
    out = tmp_path / "g.json"
    assert main(["bench", "generation", "--events", "60", "--jobs", "1,2", "--json", str(out)]) == 0
    one, two = json.loads(out.read_text())["rows"]
    assert (one["workers"], two["workers"]) == (1, 2)
    assert 0 < one["flows"] < one["decode"]
    assert two["flows"] is None


@pytest.mark.slow
def test_training_rows(tmp_path: Path) -> None:
    pytest.importorskip("nflows")
    out = tmp_path / "t.json"
    command = ["bench", "training", "--preset", "caloflow-tiny", "--against", "nflows", "--rounds", "1", "--steps", "1"]
    assert main([*command, "--set", "training.batch_size=20", "--threads", "1", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert set(result["times"]) == {"loop", "flow", "flow bfloat16", "nflows"}
    assert result["agreement"]["loss"] < 1e-5
    assert result["agreement"]["gradient"] < 1e-3
    assert result["speedup"] == pytest.approx(result["times"]["nflows"]["step"] / result["times"]["loop"]["step"])


def test_unknown_peer_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("sampling", "training"):
        assert main(["bench", command, "--against", "pyro"]) != 0
        assert "expected nflows" in " ".join(capsys.readouterr().err.split())


def test_peak_memory_sees_what_was_needed_and_given_back() -> None:
    """In a process of its own, as in the benches: memory that an old process happens to give back would count against it."""
    code = (
        "import numpy as np; from caloforge.bench.machine import PeakMemory; peak = PeakMemory(); "
        "block = np.ones(200 * 2**17); del block; print(peak.megabytes())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 150 < float(said) < 400


def test_machine_and_clock() -> None:
    assert matrix_rate(1) > 0
    assert {"processor", "torch", "date"} <= set(describe_machine())
    timing = time_calls(lambda: None, seconds=0.0, least=5, most=5)
    assert timing.calls == 5
    assert timing.lowest <= timing.median <= timing.highest


def test_a_starting_model_makes_valid_showers() -> None:
    model = generation.starting_model("caloflow-tiny")
    assert not model.training
    assert model.parameter_count() == load_preset("caloflow-tiny").build(model.detector).parameter_count()
