"""CaloGAN of several particles in one network: published sizes and embedding, what is told of types, and that they count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Rows, sparse_showers, toy_detector, training_batch
from torch import Tensor
from torch.nn import functional

from caloforge.detectors import load_detector
from caloforge.errors import ConfigError, UsageError
from caloforge.generation import generation_streams, sample_showers
from caloforge.models import Conditions, build_model, profile_settings
from caloforge.parts.image_game import ImageGame
from caloforge.random import Streams
from caloforge.showers import Showers
from caloforge.stage import FitStage, TrainingConfig
from caloforge.zoo.calo_gan import CaloGAN

STREAMS = Streams(5, "gan")
SMALL: dict[str, Any] = {"latent": 6, "channels": 2, "critic_channels": [4, 3, 3, 2]}
PDG = (22, -11, 211)


def built(profile: Any, detector: Any = None, *, small: bool = True, **changes: Any) -> CaloGAN:
    torch.manual_seed(1)
    settings = profile_settings(CaloGAN.differences, profile) | (SMALL if small else {})
    settings |= {"particles": ["gamma", "e+", "pi+"]} | changes
    model = build_model("calo-gan", settings, detector or load_detector("calogan"), profile=profile)
    assert isinstance(model, CaloGAN)
    return model


def fitted(showers: Showers, **changes: Any) -> CaloGAN:
    """An ``improved`` one for a toy detector, with its scales and bins."""
    model = built("improved", showers.detector, **changes)
    for stage in model.training_stages(TrainingConfig())[:2]:
        assert isinstance(stage, FitStage)
        stage.load_state(stage.fit(Rows(showers), STREAMS))
    return model


def game(model: CaloGAN) -> ImageGame:
    stage = model.training_stages(TrainingConfig())[-1]
    assert isinstance(stage, ImageGame)
    return stage


def one_hot(model: CaloGAN, *pdg: int) -> Tensor:
    types = model.types(torch.tensor(pdg))
    assert types is not None
    return types


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---- networks -------------------------------------------------------------------------------------------------------


def test_each_type_has_an_embedding_and_a_unit_of_the_critic_besides_the_published_weights() -> None:
    """Mutation: one unit for all types, as in the public code; the type among the inputs of the published dense layers."""
    model = built("published", small=False)
    assert parameters(model.generator) == 29_726_280 + 3 * 1_024
    assert parameters(model.critic) == 2_744_332 + 3 * (1_863 + 1)
    small = built("published", small=False, latent=500, particles=["gamma", "e+"])
    assert parameters(small.generator) == 14_672_808 + 2 * 500
    assert parameters(small.critic) == 2_744_332 + 2 * (1_863 + 1)


def test_the_embedding_multiplies_as_published() -> None:
    """Mutations: add it; leave the energy away; take the first type for all."""
    model = built("published")
    assert model.generator.embedding is not None
    weight = model.generator.embedding.weight
    noise, energy = torch.randn(5, 6), torch.tensor([1e3, 5e4, 1e5, 2e3, 7e4], dtype=torch.float64)
    pdg = (211, 22, -11, -11, 22)
    given = model.given(noise, energy, None, one_hot(model, *pdg))
    for row, particle in enumerate(pdg):
        wanted = noise[row] * weight[PDG.index(particle)] * (float(energy[row]) / 1e5)
        torch.testing.assert_close(given[row], wanted)
    # Glorot-normal: of a width of sqrt(2 / (types + latent)).
    wide = built("published", latent=4000, channels=1).generator.embedding
    assert wide is not None
    assert float(wide.weight.detach().std()) == pytest.approx((2 / 4003) ** 0.5, rel=0.03)


@torch.no_grad()
def test_no_energy_no_difference_within_a_type() -> None:
    """Published: at 0 a shower depends on nothing, whatever its random numbers and type are."""
    model = built("published").eval()
    noise, types = torch.randn(6, 6), one_hot(model, 22, 22, -11, -11, 211, 211)
    same = model.make(noise, torch.zeros(6, dtype=torch.float64), None, types)
    torch.testing.assert_close(same, same[:1].expand_as(same))
    other = model.make(noise[:1].expand(6, -1), torch.full((6,), 5e4, dtype=torch.float64), None, types)
    torch.testing.assert_close(other[0], other[1])
    assert float((other[2] - other[0]).abs().max()) > 0
    assert float((other[4] - other[2]).abs().max()) > 0


def test_the_type_stands_beside_the_random_numbers_one_hot() -> None:
    model = built("improved", toy_detector())
    assert model.generator.embedding is None
    noise, energy = torch.randn(3, 6), torch.full((3,), 2e4, dtype=torch.float64)
    given = model.given(noise, energy, None, one_hot(model, -11, 22, 211))
    assert given[:, -3:].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert torch.equal(given[:, :6], noise)


@pytest.mark.parametrize("profile", ["published", "improved"])
def test_the_particle_changes_showers_and_nothing_else_does(profile: Any) -> None:
    """Same seed, same showers, alone or with others; of another particle, with the same random numbers, others."""
    model = (
        built(profile) if profile == "published" else fitted(sparse_showers(toy_detector(), 60, faint=False))
    ).eval()
    asked = [Conditions.first(np.geomspace(1e4, 9e4, 12), pdg, start=3) for pdg in PDG]
    streams = generation_streams(4)
    made = [sample_showers(model, conditions, streams) for conditions in asked]
    for conditions, sample in zip(asked, made, strict=True):
        again = sample_showers(model, conditions, streams, batch_size=5).showers
        assert isinstance(sample.showers, Showers)
        assert isinstance(again, Showers)
        np.testing.assert_allclose(again.deposits, sample.showers.deposits, rtol=1e-4, atol=1e-3)
        assert sample.showers.particle == conditions.particle
    assert not np.array_equal(made[0].showers.deposits, made[1].showers.deposits)  # type: ignore[union-attr]
    assert not np.array_equal(made[1].showers.deposits, made[2].showers.deposits)  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"makes showers of gamma, e\+, pi\+, not of e-"):
        sample_showers(model, Conditions.first(np.array([5e4]), 11), streams, extrapolate=True)


# ---- training -------------------------------------------------------------------------------------------------------


def test_the_critic_is_told_another_type_of_some_generated_showers() -> None:
    """Mutations: real ones too; the next type only; the same type again among the others; other numbers in every call."""
    model = built("improved", toy_detector(), type_flips=0.3)
    showers = sparse_showers(model.detector, 3000)
    pdg = torch.tensor(PDG)[torch.arange(3000) % 3]
    batch = replace(training_batch(showers), particle=pdg)
    types = one_hot(model, *pdg.tolist())
    stage = game(model)
    told = stage._told(types, batch, STREAMS)
    assert torch.equal(told.sum(dim=1), torch.ones(3000))
    changed = (told * types).sum(dim=1) == 0
    assert 0.27 < float(changed.double().mean()) < 0.33
    steps = (told.argmax(dim=1) - types.argmax(dim=1))[changed] % 3
    assert 0.42 < float((steps == 1).double().mean()) < 0.58  # either of the other two
    assert torch.equal(told, stage._told(types, batch, STREAMS))
    part = replace(training_batch(showers[100:200], first_row=100), particle=pdg[100:200])
    assert torch.equal(told[100:200], stage._told(types[100:200], part, STREAMS))
    assert not torch.equal(told, stage._told(types, replace(batch, epoch=1), STREAMS))
    never = game(built("improved", toy_detector(), type_flips=0.0))
    assert torch.equal(never._told(types, batch, STREAMS), types)


@pytest.mark.parametrize("profile", ["published", "improved"])
def test_both_players_have_a_loss_of_the_types(profile: Any) -> None:
    """Mutations: no weight; the generator without the term; real showers with flipped types."""
    detector = toy_detector()
    batch = training_batch(sparse_showers(detector, 12, faint=False))
    batch = replace(batch, particle=torch.tensor(PDG)[torch.arange(12) % 3])
    losses: dict[tuple[float, str], float] = {}
    for weight in (0.0, 0.2):
        for player in ("critic", "generator"):
            model = built(profile, detector, type_weight=weight, type_flips=0.0).train()
            found = game(model).loss(player, batch, STREAMS)
            losses[weight, player] = float(found["loss"].detach())
            if weight and player == "critic":
                # Real and generated showers, each with a term of its own.
                again = built(profile, detector, type_weight=weight, type_flips=0.0).train()
                types = again.types(batch.particle)
                _, guess = again.guesses(batch.deposits, batch.incident_energy, None)  # type: ignore[attr-defined]
                assert guess is not None
                assert types is not None
                wanted = float(functional.cross_entropy(guess, types).detach())
                assert float(found["types"]) == pytest.approx(wanted, rel=1e-5)
                assert losses[0.2, player] - losses[0.0, player] > 0.2 * wanted
            if weight and player == "generator":
                assert losses[0.2, player] - losses[0.0, player] == pytest.approx(0.2 * float(found["types"]), rel=1e-3)


def test_flips_are_for_the_critic_and_generated_showers_only() -> None:
    """Mutations: types that are not flipped; the generator, or real showers, with flipped ones."""
    showers = sparse_showers(toy_detector(), 12, faint=False)
    batch = replace(training_batch(showers), particle=torch.tensor(PDG)[torch.arange(12) % 3])
    for player in ("critic", "generator"):
        found = [game(fitted(showers, type_flips=share).train()).loss(player, batch, STREAMS) for share in (0.0, 1.0)]
        assert torch.equal(found[0]["types"], found[1]["types"])
        assert torch.equal(found[0]["loss"], found[1]["loss"]) == (player == "generator")


@pytest.mark.parametrize("loss", ["distance", "moments"])
def test_showers_of_one_particle_are_not_compared_with_those_of_another(loss: str) -> None:
    """Two samples that are the same as a whole, with types exchanged. Mutation: leave the types out of the comparison."""
    showers = sparse_showers(toy_detector(), 200, faint=False)
    model = fitted(showers, particles=["gamma", "e+"], energy_loss=loss)
    batch = training_batch(showers)
    energy = torch.full((200,), 2e4, dtype=torch.float64)
    bright = batch.deposits / batch.deposits.sum(dim=1, keepdim=True) * 1.8e4  # type: ignore[attr-defined]
    dim = 0.3 * bright
    types = one_hot(model, *[22] * 100, *[-11] * 100)
    right, wrong = torch.cat([bright[:100], dim[100:]]), torch.cat([dim[:100], bright[100:]])
    assert float(model.energy_loss(right, right, energy, types)) < 1e-3
    assert float(model.energy_loss(wrong, right, energy, types)) > 0.03
    blind = fitted(showers, particles=["gamma", "e+"], energy_loss=loss).energy_loss(wrong, right, energy)
    assert float(model.energy_loss(wrong, right, energy, types)) > 5 * abs(float(blind))


def test_weights_are_chosen_by_the_separation_of_each_particle() -> None:
    """Mutation: one histogram for all, for which a network that mistakes the particles is perfect."""
    showers = sparse_showers(toy_detector(), 200, faint=False)
    model = fitted(showers, particles=["gamma", "e+"])
    batch = training_batch(showers)
    bright = batch.deposits  # type: ignore[attr-defined]
    energy, types = batch.incident_energy, one_hot(model, *[22, -11] * 100)
    other = torch.where(types[:, :1] > 0, bright, 0.3 * bright)
    exchanged = types.flip(1)
    part = model.separations
    separate = part.histograms(other, energy, types)
    assert separate.shape == (part.edges.shape[0], 20)
    torch.testing.assert_close(separate.sum(dim=1), torch.ones(len(separate), dtype=torch.float64))
    assert float(part.distance(separate, separate)) == 0.0
    assert float(part.distance(separate, part.histograms(other, energy, exchanged))) > 0.05
    # A mean over the particles: half of the bins of one, half of the other.
    for column, pdg in enumerate((22, -11)):
        own = batch.particle is not None and (types[:, column] > 0)
        alone = part.histograms(other[own], energy[own])
        torch.testing.assert_close(separate.reshape(-1, 2, 10)[:, column], alone / 2, msg=str(pdg))


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("particles", "said"),
    [
        (["gamma"], "one particle is that of the data and needs no name"),
        (["gamma", "photon"], "a particle is named twice"),
        (["gamma", "photino"], "the particle 'photino' is not known"),
        ("gamma", "particles"),
    ],
)
def test_wrong_particles_are_refused(particles: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        built("improved", toy_detector(), particles=particles)


def test_names_are_those_of_the_command_line() -> None:
    assert built("improved", toy_detector(), particles=["photon", -11, "piplus"]).config.particles == (
        "gamma",
        "e+",
        "pi+",
    )


def test_rows_that_name_no_particle_are_refused() -> None:
    model = built("improved", toy_detector())
    batch = replace(training_batch(sparse_showers(model.detector, 4)), particle=None)
    with pytest.raises(UsageError, match="nothing says of which these are"):
        game(model).loss("critic", batch, STREAMS)
    judge = [{"kind": "rejection"}]
    with pytest.raises(ConfigError, match="judges showers of one particle, and the model makes several"):
        build_model("calo-gan", SMALL | {"particles": ["gamma", "e+"]}, toy_detector(), aids=judge)
