"""Dropout by row and batch norm over processes, against torch's layers and the whole batch."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from caloforge.nn.batch_layers import BatchNorm1d, BatchNorm2d, Dropout, dropout, gathered, training_step
from caloforge.random import Streams
from caloforge.testing.processes import _Sums

STREAMS = Streams(3, "masks")


def mask(rows: Tensor, *, counter: int = 0, each: int = 1, probability: float = 0.3, calls: int = 1) -> Tensor:
    """Mask of the last of some calls, for (B each, 50) ones."""
    x = torch.ones(len(rows) * each, 50)
    with training_step(rows, STREAMS, counter):
        for _ in range(calls):
            x_out = dropout(x, probability, True)
    return x_out


class TestDropout:
    @pytest.mark.parametrize("each", [1, 3])
    def test_a_row_has_its_mask_in_any_company(self, each: int) -> None:
        rows = torch.tensor([7, 0, 123_456, 3])
        together = mask(rows, each=each)
        for place in range(4):
            alone = mask(rows[place : place + 1], each=each)
            assert torch.equal(alone, together[place * each : (place + 1) * each])
        assert len({tuple(row) for row in together.tolist()}) == 4 * each

    def test_other_steps_calls_and_seeds_have_others(self) -> None:
        rows = torch.arange(4)
        masks = [mask(rows), mask(rows, counter=1), mask(rows, calls=2)]
        with training_step(rows, Streams(4, "masks"), 0):
            masks.append(dropout(torch.ones(4, 50), 0.3, True))
        assert len({tuple(m.flatten().tolist()) for m in masks}) == 4

    @pytest.mark.parametrize("probability", [0.05, 0.5, 0.999])
    def test_shares_means_and_independence_are_right(self, probability: float) -> None:
        rows = torch.arange(20_000)
        kept = (mask(rows, probability=probability) > 0).double()
        sigma = (probability * (1 - probability) / kept.numel()) ** 0.5
        assert float(kept.mean()) == pytest.approx(1 - probability, abs=5 * sigma + 1e-5)
        # Correlations of neighbours, along the row and between rows and steps.
        later = (mask(rows, counter=1, probability=probability) > 0).double()
        centred, after = kept - kept.mean(), later - later.mean()
        for a, b in ((centred[:, 1:], centred[:, :-1]), (centred[1:], centred[:-1]), (centred, after)):
            correlation = (a * b).mean() / (probability * (1 - probability))
            assert abs(float(correlation)) < 5 / a.numel() ** 0.5
        by_column = kept.mean(dim=0)
        assert float((by_column - by_column.mean()).abs().max()) < 5 * sigma * 50**0.5

    def test_what_is_kept_makes_up_for_what_is_not(self) -> None:
        kept = mask(torch.arange(10), probability=0.25).unique()
        assert kept.tolist() == pytest.approx([0, 4 / 3])

    def test_nothing_happens_outside_training(self) -> None:
        x = torch.ones(4, 50)
        with training_step(torch.arange(4), STREAMS, 0):
            assert dropout(x, 0.5, False) is x
            assert dropout(x, 0.0, True) is x
            assert Dropout(0.5).eval()(x) is x

    def test_outside_of_a_step_torch_draws(self) -> None:
        x = torch.ones(4, 50)
        torch.manual_seed(0)
        ours = Dropout(0.4)(x)
        torch.manual_seed(0)
        assert torch.equal(ours, nn.Dropout(0.4)(x))

    def test_values_that_belong_to_no_row_are_refused(self) -> None:
        with training_step(torch.arange(4), STREAMS, 0), pytest.raises(ValueError, match="10 values from a batch of 4"):
            dropout(torch.ones(10, 2), 0.5, True)

    def test_gradients_pass_where_values_do(self) -> None:
        x = torch.rand(4, 6, dtype=torch.float64, requires_grad=True)
        with training_step(torch.arange(4), STREAMS, 0):
            y = dropout(x, 0.5, True)
        y.sum().backward()
        assert x.grad is not None
        assert torch.equal(x.grad != 0, y.detach() != 0)
        assert set(x.grad.flatten().tolist()) == {0.0, 2.0}


Add = Callable[[Tensor], None]


class TestBatchNorm:
    """The reference is torch's layer on the whole batch; the other process is played by sums made beforehand."""

    @staticmethod
    def layers(shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
        channels = shape[1]
        kind, theirs = (BatchNorm1d, nn.BatchNorm1d) if len(shape) == 2 else (BatchNorm2d, nn.BatchNorm2d)
        torch.manual_seed(1)
        reference, ours = theirs(channels).double(), kind(channels).double()
        with torch.no_grad():
            reference.weight.uniform_(0.5, 2)
            reference.bias.uniform_(-1, 1)
        ours.load_state_dict(reference.state_dict())
        return reference, ours

    @pytest.mark.parametrize("shape", [(7, 5), (7, 3, 4, 2)])
    def test_it_is_that_of_the_whole_batch(self, shape: tuple[int, ...]) -> None:
        reference, ours = self.layers(shape)
        x = 3 + 2 * torch.randn(*shape, dtype=torch.float64)
        with training_step(torch.arange(shape[0]), STREAMS, 0, lambda _: None):  # a sum over one process
            made = ours(x)
        torch.testing.assert_close(made, reference(x), rtol=1e-12, atol=1e-12)
        for (name, wanted), value in zip(reference.state_dict().items(), ours.state_dict().values(), strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-12, msg=name)

    def test_gradients_of_a_share_know_the_other_share(self) -> None:
        """Forward and backward of two shares in lockstep threads; fails if the backward pass is not summed."""
        from threading import Barrier, Thread

        reference, ours = self.layers((7, 5))
        x = torch.randn(7, 5, dtype=torch.float64)
        whole = x.clone().requires_grad_(True)
        weights = torch.randn(7, 5, dtype=torch.float64)
        (reference(whole).sin() * weights).sum().backward()
        barrier, parts, gradients = Barrier(2, timeout=30), [None, None], [None, None]

        def share(number: int, rows: slice) -> None:
            def add_up(values: Tensor) -> None:
                parts[number] = values.clone()
                barrier.wait()
                total = parts[0] + parts[1]
                barrier.wait()
                values.copy_(total)

            layer = BatchNorm1d(5).double()
            layer.load_state_dict(ours.state_dict())
            own = x[rows].clone().requires_grad_(True)
            with training_step(torch.arange(7)[rows], STREAMS, 0, add_up):
                made = layer(own)
            (made.sin() * weights[rows]).sum().backward()
            gradients[number] = own.grad

        threads = [Thread(target=share, args=args) for args in enumerate((slice(0, 3), slice(3, 7)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        torch.testing.assert_close(torch.cat(gradients), whole.grad, rtol=1e-11, atol=1e-12)

    def test_in_eval_mode_running_statistics_count(self) -> None:
        reference, ours = self.layers((7, 5))
        x = torch.randn(7, 5, dtype=torch.float64)
        with training_step(torch.arange(7), STREAMS, 0, lambda _: None):
            assert torch.equal(ours.eval()(x), reference.eval()(x))

    def test_half_precision_is_summed_in_float32(self) -> None:
        _, ours = self.layers((4096, 5))
        x = (100 + torch.randn(4096, 5)).bfloat16()
        with training_step(torch.arange(4096), STREAMS, 0, lambda _: None):
            made = ours.float()(x)
        assert made.dtype == torch.bfloat16
        normed = (made.detach().float() - ours.bias.detach()) / ours.weight.detach()
        assert float(normed.mean(dim=0).abs().max()) < 0.02


def test_rows_are_gathered_over_processes_and_gradients_go_back() -> None:
    """Mutations: the rows of all in another order; gradients of this process alone; silence where no place is known."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    weights = torch.randn(5, 5, 2, generator=generator, dtype=torch.float64)

    def loss(own: Tensor, whole: Tensor, first: int) -> Tensor:
        pairs = (own[:, None] - whole[None]).square() * weights[first : first + len(own)]
        return pairs.sum()

    alone = x.clone().requires_grad_(True)
    loss(alone, gathered(alone), 0).backward()  # type: ignore[no-untyped-call]
    sums, found = _Sums(2), [torch.empty(0)] * 2

    def work(rank: int, first: int, rows: int) -> None:
        own = x[first : first + rows].clone().requires_grad_(True)
        with training_step(torch.arange(first, first + rows), Streams(0, "s"), 0, sums.adder(rank), (first, 5)):
            whole = gathered(own)
            assert torch.equal(whole.detach(), x)
            loss(own, whole, first).backward()  # type: ignore[no-untyped-call]
        assert own.grad is not None
        found[rank] = own.grad

    threads = [threading.Thread(target=work, args=args) for args in ((0, 0, 2), (1, 2, 3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(torch.cat(found), alone.grad)
    with (
        training_step(torch.arange(2), Streams(0, "s"), 0, lambda _: None),
        pytest.raises(RuntimeError, match="does not say where they stand"),
    ):
        gathered(x[:2])
