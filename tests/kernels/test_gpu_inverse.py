"""What solves on a GPU, as far as a CPU can prove it: interpreted, compiled ahead of time, and with a double of a CUDA graph."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from caloforge.errors import UsageError
from caloforge.kernels.gpu import choice
from caloforge.kernels.gpu.graphs import Graphs
from caloforge.kernels.ops import autoregressive, registry
from caloforge.kernels.ops.packing import Watch, pack_plainly
from caloforge.kernels.ops.registry import plain_only
from caloforge.nn import MaskedAutoregressiveFlow

ROOT = Path(__file__).parents[2]
NAMES = [
    "two tiles", "three layers", "unseen inputs", "one layer", "one feature", "two pieces", "four pieces", "tails", "rough",
    "reads latents",
    "large tile",
]  # fmt: skip


def run(folder: Path, *words: str) -> str:
    """What a Python program says."""
    environment = {
        **os.environ,
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *words], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        run(tmp_path_factory.mktemp("cases"), str(ROOT / "tests/kernels/triton_cases.py"))
    )
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_kernel_is_as_good_as_plain_float32(interpreted: dict[str, Any], name: str) -> None:
    """Against the plain twin in float64; mutation: any sign, mask, order or offset of the kernel or of its packed weights."""
    found = interpreted[name]
    assert found["covered"]
    assert found["error"] <= 3 * found["plain_error"] + 1e-5
    assert found["logdet_error"] <= 3 * found["plain_logdet_error"] + 1e-5
    assert found["plain_error"] < (0.02 if name == "rough" else 3e-5)
    assert (found["beyond"] > 0.1) == (name == "tails")


def test_a_shower_does_not_know_its_neighbours(interpreted: dict[str, Any]) -> None:
    """Bit by bit; mutation: rows that are not there are counted, or a sum over the rows of a tile."""
    assert interpreted["neighbours"] == {"17:18": True, "3:9": True}


def test_the_operator_asks_for_a_proof(interpreted: dict[str, Any]) -> None:
    """Mutation: a kernel of wrong results that serves, or that is refused without a word, or again and again."""
    found = interpreted["operators"]
    assert found["difference"] < 3e-5
    assert found["proven"] == [True]
    assert found["nan"]
    assert "packed by another kernel" in found["other weights"]
    assert found["refused"]
    assert found["refused again"]
    assert found["solves plainly"]
    assert len(found["warnings"]) == 1
    assert "plain PyTorch" in found["warnings"][0]
    assert "was asked for and fails" in found["asked for"]


def test_the_real_size_is_compiled_without_a_gpu(tmp_path: Path) -> None:
    """For an H100: registers suffice, shared memory fits, and no matrix unit takes the product in fewer digits.

    Mutation: a layout that is forced upon the hidden units (see ``known`` in the kernel) spills kilobytes.
    """
    found = json.loads(run(tmp_path, str(ROOT / "tools/gpu_kernel_report.py"), "compact"))
    assert found["spill_stores"] == found["spill_loads"] == 0
    assert found["shared"] <= 227 * 1024
    assert found["matrix_units"] == 0
    assert found["cubin"] > 1000


# ---- the choice -----------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("CALOFORGE_GPU_KERNELS", raising=False)
    choice._choose.cache_clear()
    return monkeypatch


def test_triton_serves_where_it_is_installed(asked: pytest.MonkeyPatch) -> None:
    """The lock installs it, so this fails, and is not skipped, where it is missing."""
    found = choice.choose_gpu_kernels()
    assert found.kind == "triton"
    assert importlib.metadata.version("triton") in found.why
    with plain_only():
        assert registry.gpu_kernels() == "plain"


@pytest.mark.parametrize("kind", ["graphs", "plain"])
def test_the_environment_chooses(asked: pytest.MonkeyPatch, kind: str) -> None:
    asked.setenv("CALOFORGE_GPU_KERNELS", kind)
    assert choice.choose_gpu_kernels().kind == registry.gpu_kernels() == kind
    assert "CALOFORGE_GPU_KERNELS" in choice.choose_gpu_kernels().why


def test_what_is_not_there_is_said(asked: pytest.MonkeyPatch) -> None:
    asked.setattr(choice, "find_spec", lambda name: None)
    assert choice.choose_gpu_kernels() == choice.GpuChoice("plain", "Triton is not installed")
    asked.setenv("CALOFORGE_GPU_KERNELS", "triton")
    with pytest.raises(UsageError, match=r"caloforge\[gpu\]"):
        choice.choose_gpu_kernels()
    asked.setenv("CALOFORGE_GPU_KERNELS", "cuda")
    with pytest.raises(UsageError, match="expected triton, graphs or plain"):
        choice.choose_gpu_kernels()
    choice._choose.cache_clear()


def test_weights_on_a_gpu_are_watched() -> None:
    """Writes through ``.data`` are noticed there, too; mutation: only addresses and versions count."""

    class Elsewhere(Tensor):
        is_cpu = False

    weights = [torch.zeros(40), torch.arange(5)]
    elsewhere = [weight.as_subclass(Elsewhere) for weight in weights]
    watch = Watch(elsewhere, [0, 0], None)
    before = watch.fingerprint(elsewhere)
    assert before == watch.fingerprint(elsewhere)
    weights[0].data += 1
    assert before != watch.fingerprint(elsewhere)


# ---- CUDA graphs ----------------------------------------------------------------------------------------------------


class Recorder(TorchDispatchMode):
    """Notes every operation with the memory that it used, and repeats them, and nothing else: a double of a captured graph.

    What a GPU cannot capture, a look at a number or a copy from another memory, is an error.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(func)
        assert not any(word in name for word in ("_local_scalar_dense", "nonzero", "_to_copy", "item", "lift_fresh")), (
            name
        )
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, result))
        return result

    def replay(self) -> None:
        for func, args, kwargs, result in self.calls:
            if torch.Tag.inplace_view in func.tags or func.is_view or func._schema.is_mutable:
                if func._schema.is_mutable:
                    func(*args, **kwargs)
                continue
            for kept, new in zip(flat(result), flat(func(*args, **kwargs)), strict=True):
                kept.copy_(new)


def flat(result: Any) -> list[Tensor]:
    return [one for one in (result if isinstance(result, tuple | list) else [result]) if isinstance(one, Tensor)]


class Counting:
    """Captures with the double, and counts."""

    def __init__(self) -> None:
        self.captured = 0

    def __call__(self, work: Callable[[], tuple[Tensor, Tensor]]) -> Any:
        self.captured += 1
        with plain_only(), Recorder() as recorder:
            results = work()
        for result in results:
            result.fill_(torch.nan)  # what a capture leaves in memory is not a result
        return results, recorder.replay


def small_flow(seed: int) -> MaskedAutoregressiveFlow:
    torch.manual_seed(seed)
    return MaskedAutoregressiveFlow(
        features=5, context_features=2, blocks=2, hidden_features=6, hidden_layers=1, permutations=[[4, 2, 0, 1, 3]]
    ).double()


def test_replayed_steps_are_the_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: results handed out are the graph's own memory; its memory is not filled anew; it knows the first flow only."""
    capture = Counting()
    graphs = Graphs(capture, most=3)
    monkeypatch.setattr(autoregressive, "_graphs", graphs)
    monkeypatch.setattr(autoregressive, "_gpu_kind", lambda *a: "graphs")
    kept = []
    for flow in (small_flow(1), small_flow(2)):
        weights, plan = flow.unpacked()
        packed = pack_plainly(weights)
        assert autoregressive._gpu_pack(weights, plan, False) is NotImplemented
        for count in (7, 5, 8, 3):
            z, context = 3 * torch.randn(count, 5).double(), torch.randn(count, 2).double()
            found = autoregressive._gpu_solve(packed, plan, z, context, False, *flow.spline_shape)
            expected = flow.solve_plainly(z, context)
            kept.append((found, expected))
    for found, expected in kept:
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert capture.captured == 4  # for up to 8 rows and up to 4, for each of the flows
    assert len(graphs._captured) == 3
    empty = autoregressive._gpu_solve(packed, plan, z[:0], context[:0], False, *flow.spline_shape)
    assert empty[0].shape == (0, 5)
    assert capture.captured == 4


def test_no_gpu_means_no_change() -> None:
    """On a CPU the compiled kernels serve, whatever is chosen for GPUs; mutation: ``served`` asks for the choice alone."""
    flow = small_flow(1)
    assert registry.served(torch.zeros(2), *flow.parameters())
    with torch.device("meta"):
        assert not registry.served(torch.zeros(2))
