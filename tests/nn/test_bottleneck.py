"""Networks of the autoencoder with a bounded information bottleneck: published sizes, dead planes, grids of any kind."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from caloforge.nn.bottleneck import (
    BottleneckDecoder,
    BottleneckEncoder,
    ConvolutionStack,
    FixedAngleHead,
    Flat,
    Grid,
    PlainHead,
    PostProcessor,
    Recipe,
    TwoAngleHead,
    critic_steps,
    encoder_steps,
)
from caloforge.nn.bottleneck_critics import BatchStatistics, LatentCritic, PairCritic

CUBE, TILTED, HADRONIC = (30, 30, 30), (30, 30, 49), (48, 25, 25)


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def encoder(recipe: Recipe, grid: Grid, hidden: tuple[int, ...], conditions: int) -> BottleneckEncoder:
    return BottleneckEncoder(ConvolutionStack(grid, encoder_steps(recipe, grid, 8)), conditions, hidden, 24)


def critic(recipe: Recipe, grid: Grid, channels: int, conditions: int, *, hidden: int, two_angles: bool) -> PairCritic:
    one, two = (ConvolutionStack(grid, critic_steps(recipe, grid, channels)) for _ in range(2))
    cells = math.prod(grid)
    return PairCritic(cells, (one, two), conditions, width=256, hidden=hidden, two_angles=two_angles)


def test_published_sizes_of_the_fixed_angle_networks() -> None:
    """Of the authors' classes for 2005.05334; the decoder's size is what its layers add up to."""
    with torch.device("meta"):
        assert size(encoder("fixed-angle", CUBE, (4000, 768), 1)) == 35_224_598
        head = FixedAngleHead(4000, CUBE, 8, planes="lost")
        assert size(BottleneckDecoder(512, 1, (4000, 768), head)) == 36_218_496
        assert size(critic("fixed-angle", CUBE, 128, 1, hidden=3, two_angles=False)) == 4_762_753
        assert size(LatentCritic()) == 10_301
        post = PostProcessor(27_000, 1, width=128, layers=6, norm=True, last_bias=False, residual=False)
        assert size(post) == 299_136


def test_published_sizes_of_the_two_angle_networks() -> None:
    with torch.device("meta"):
        assert size(encoder("two-angles", TILTED, (800, 512), 3)) == 6_117_446
        assert size(BottleneckDecoder(512, 3, (800, 512), TwoAngleHead(800, TILTED, 8))) == 5_118_936
        assert size(critic("two-angles", TILTED, 64, 3, hidden=2, two_angles=True)) == 9_387_873
        post = PostProcessor(44_100, 4, width=128, layers=6, norm=False, last_bias=True, residual=False)
        assert size(post) == 83_329


def test_published_sizes_of_the_hadronic_networks() -> None:
    """2112.09709 has the same recipe on another grid."""
    with torch.device("meta"):
        assert size(encoder("two-angles", HADRONIC, (800, 512), 1)) == 3_767_514
        assert size(BottleneckDecoder(512, 1, (800, 512), TwoAngleHead(800, HADRONIC, 8))) == 4_939_568
        assert size(critic("two-angles", HADRONIC, 64, 1, hidden=2, two_angles=True)) == 6_472_961
        post = PostProcessor(30_000, 1, width=128, layers=10, norm=True, last_bias=False, residual=False)
        assert size(post) == 629_184


def test_published_grids_on_the_way() -> None:
    grids: dict[str, list[Grid]] = {}
    for recipe, grid in (("fixed-angle", CUBE), ("two-angles", TILTED), ("two-angles", HADRONIC)):
        here, seen = grid, []
        for step in encoder_steps(recipe, grid, 8):  # type: ignore[arg-type]
            here = step.after(here)
            seen.append(here[0] if len(set(here)) == 1 else -1)
        grids[str(grid)] = seen  # type: ignore[assignment]
    assert list(grids.values()) == [[16, 9, 5, 5], [28, 14, 7, 6], [24, 12, 6, 5]]


@pytest.mark.parametrize(("planes", "reached"), [("lost", False), ("reached", True)])
def test_the_last_planes_are_lost_as_published_and_reached_otherwise(planes: str, reached: bool) -> None:
    """Mutation: padding 1 in both; the last plane of every axis then does not depend on what comes in."""
    torch.manual_seed(0)
    head = FixedAngleHead(3, (6, 6, 6), 2, planes=planes)  # type: ignore[arg-type]
    thrice = head.layers[0][0]  # type: ignore[index]
    one, two = (thrice(torch.randn(1, 2, 2, 2, 2)) for _ in range(2))
    moved = (one - two).abs().sum(dim=(0, 1))
    for axis in range(3):
        planes_moved = moved.sum(dim=[other for other in range(3) if other != axis])
        assert bool((planes_moved[:-1] > 0).all())
        assert bool(planes_moved[-1] > 0) == reached


@pytest.mark.parametrize("grid", [(1, 1, 1), (2, 2, 2), (3, 4, 5), (10, 16, 9), (6, 30, 7)])
@pytest.mark.parametrize("recipe", ["fixed-angle", "two-angles", "plain"])
def test_every_grid_has_networks(recipe: Recipe, grid: Grid) -> None:
    torch.manual_seed(0)
    heads = {
        "fixed-angle": lambda: FixedAngleHead(5, grid, 2, planes="reached"),
        "two-angles": lambda: TwoAngleHead(5, grid, 2),
        "plain": lambda: PlainHead(5, grid, 2, periodic=True),
    }
    body = ConvolutionStack(grid, encoder_steps(recipe, grid, 2), periodic=recipe == "plain")
    cells, conditions = torch.rand(3, math.prod(grid)), torch.rand(3, 1)
    mean, log_variance = BottleneckEncoder(body, 1, (5, 6), 4)(cells, conditions)
    assert mean.shape == log_variance.shape == (3, 4)
    made = BottleneckDecoder(4, 1, (5, 6), heads[recipe]())(mean, conditions)
    assert made.shape == cells.shape
    assert bool((made >= 0).all())
    judge = critic(recipe, grid, 2, 1, hidden=2, two_angles=recipe == "two-angles")
    assert judge(cells, made, conditions).shape == (3,)


def test_plain_convolutions_go_around_a_polar_grid() -> None:
    """Mutation: zeros at the ends of the second axis."""
    torch.manual_seed(0)
    grid = (3, 6, 4)
    body = ConvolutionStack(grid, encoder_steps("plain", grid, 2), periodic=True)
    first = body.layers[0][0]  # type: ignore[index]
    image = torch.rand(1, 1, *grid)
    assert torch.allclose(first(image.roll(2, dims=3)), first(image).roll(2, dims=3), atol=1e-6)
    plain = ConvolutionStack(grid, encoder_steps("plain", grid, 2))
    other = plain.layers[0][0]  # type: ignore[index]
    assert not torch.allclose(other(image.roll(2, dims=3)), other(image).roll(2, dims=3), atol=1e-3)


def test_a_post_processor_with_one_channel_of_ones_changes_nothing() -> None:
    post = PostProcessor(7, 1, width=2, layers=4, norm=False, last_bias=True, residual=False)
    for parameter in post.parameters():
        nn.init.zeros_(parameter)
    for layer in (*(entry[0] for entry in post.layers), post.last):  # type: ignore[index]
        layer.weight.data[0, 0] = 1.0
    cells = torch.rand(3, 7)
    assert torch.equal(post(cells, torch.rand(3, 1)), cells)


def test_a_residual_post_processor_starts_with_nothing() -> None:
    cells = torch.rand(3, 7)
    post = PostProcessor(7, 1, width=8, layers=4, norm=False, last_bias=True, residual=True)
    assert torch.equal(post(cells, torch.rand(3, 1)), cells)


def test_a_latent_critic_looks_at_each_number_by_itself() -> None:
    torch.manual_seed(0)
    judge, latents = LatentCritic(), torch.randn(3, 5)
    found = judge(latents)
    changed = latents.clone()
    changed[1, 2] += 1
    assert ((judge(changed) - found).abs() > 0).nonzero().tolist() == [[1, 2]]


def test_batch_statistics_are_those_of_differences_to_all_showers() -> None:
    """The slow way: one pair after the other."""
    torch.manual_seed(0)
    part, cells = BatchStatistics(3).double(), torch.rand(4, 6, dtype=torch.float64)

    def embedded(layers: nn.ModuleList, difference: Tensor) -> Tensor:
        x = difference.reshape(1)
        for layer in layers:
            x = nn.functional.leaky_relu(layer(x), 0.01)
        return x

    rows = []
    for k in range(4):
        columns = []
        for layers, values in ((part.spread, cells.std(dim=1)), (part.sum, cells.sum(dim=1))):
            all_pairs = torch.stack([embedded(layers, values[other] - values[k]) for other in range(4)])
            columns += [all_pairs.std(dim=0), all_pairs.mean(dim=0)]
        rows.append(nn.functional.leaky_relu(part.last(torch.cat(columns)), 0.2))
    assert torch.allclose(part(cells), torch.stack(rows), atol=1e-6)


def test_a_critic_sees_the_true_shower_only_in_the_difference() -> None:
    """Mutation: hand the critic only what was made; it then cannot know how the two differ."""
    torch.manual_seed(0)
    judge = PairCritic(6, (Flat(6), Flat(6)), 1, width=8, hidden=2, two_angles=True)
    truth, made, conditions = torch.rand(5, 6), torch.rand(5, 6), torch.rand(5, 1)
    assert not torch.allclose(judge(truth, made, conditions), judge(made, made, conditions), atol=1e-4)
    nn.init.zeros_(judge.difference.weight)
    nn.init.zeros_(judge.log_difference.weight)
    assert torch.allclose(judge(truth, made, conditions), judge(made, made, conditions), atol=1e-6)


def test_gradients_are_finite_where_all_showers_are_alike() -> None:
    judge = PairCritic(6, (Flat(6), Flat(6)), 1, width=8, hidden=2, two_angles=True)
    cells = torch.zeros(4, 6, requires_grad=True)
    judge(cells, cells, torch.zeros(4, 1)).sum().backward()
    assert cells.grad is not None
    assert bool(torch.isfinite(cells.grad).all())
    assert all(bool(torch.isfinite(p.grad).all()) for p in judge.parameters() if p.grad is not None)
