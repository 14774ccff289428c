"""The published classifier tests: what each sees, its network, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass

from caloforge.errors import UsageError

__all__ = ["RECIPES", "ClassifierRecipe", "batch_size", "recipe", "split_sizes"]


@dataclass(frozen=True)
class ClassifierRecipe:
    """One classifier test.

    Attributes:
        name: unique name.
        title: for people.
        source: publication.
        inputs: name of the preprocessing, a key of ``inputs.INPUTS``.
        network: name of the network, see ``networks.build_network``.
        epochs: number of epochs.
        batch_size: showers per step at the published sample size; see :func:`batch_size`.
        learning_rate: of Adam.
        standardise: whether inputs are shifted and scaled to mean 0 and standard deviation 1 over both samples; no
            published recipe does.
    """

    name: str
    title: str
    source: str
    inputs: str
    network: str
    epochs: int
    batch_size: int
    learning_rate: float
    standardise: bool = False


def _caloflow() -> list[ClassifierRecipe]:
    return [
        ClassifierRecipe(
            f"caloflow-{word}-{kind}",
            f"CaloFlow {word.upper()}, {kind.replace('-', ', ')} voxels",
            f"arXiv:2106.05285 appendix {'B' if 'logit' in kind else 'A'}",
            f"caloflow-{kind}",
            network,
            epochs,
            1000,
            5e-4,
        )
        for network, word, epochs in (("dense-512", "dnn", 60), ("cnn", "cnn", 50))
        for kind in ("unnormalised", "normalised", "logit", "logit-normalised")
    ]


def _calochallenge() -> list[ClassifierRecipe]:
    return [
        ClassifierRecipe(
            f"calochallenge-{name}", f"CaloChallenge {title}", "arXiv:2410.21611", inputs, network, 50, 1000, 2e-4
        )
        for name, title, inputs, network in (
            ("low", "low-level DNN", "low-level", "dense-2048"),
            ("high", "high-level DNN", "high-level", "dense-2048"),
            ("low-normalised", "layer-normalised DNN", "low-normalised", "dense-2048"),
            ("resnet", "3D ResNet", "low-level", "resnet"),
        )
    ]


RECIPES: dict[str, ClassifierRecipe] = {
    r.name: r
    for r in (
        *_caloflow(),
        *_calochallenge(),
        ClassifierRecipe(
            "high-level", "high-level features, standardised (this package's own test)", "this package",
            "high-level-ratios", "dense-512", 60, 1000, 5e-4, standardise=True,
        ),
        ClassifierRecipe(
            "caloclouds-features", "features of CaloClouds 2, standardised (network of this package)",
            "features: arXiv:2309.05704", "caloclouds", "dense-256", 30, 1000, 5e-4, standardise=True,
        ),
    )
}  # fmt: skip


def recipe(name: str) -> ClassifierRecipe:
    """A recipe by name.

    Raises:
        UsageError: if there is none of that name.
    """
    if name not in RECIPES:
        raise UsageError(f"the classifier '{name}' is not known, expected one of {', '.join(RECIPES)}")
    return RECIPES[name]


def split_sizes(recipe: ClassifierRecipe, showers: int) -> tuple[int, int, int]:
    """Showers of each class for training, for choosing the epoch and calibrating, and for the score.

    60, 20 and 20 % (CaloFlow; CaloChallenge datasets 2 and 3); CaloChallenge's dataset 1 has 80,000, 20,000 and the
    rest of its 121,000 photons or 120,800 pions. The challenge calls the last two parts the other way round.

    Raises:
        UsageError: below 50 showers, where no part would be large enough to mean anything.
    """
    if showers < 50:
        raise UsageError(f"a classifier test has {showers} showers of each class, expected at least 50")
    if recipe.name.startswith("calochallenge") and showers in (121_000, 120_800):
        return 80_000, 20_000, showers - 100_000
    train, choose = round(0.6 * showers), round(0.2 * showers)
    return train, choose, showers - train - choose


def batch_size(recipe: ClassifierRecipe, train: int) -> int:
    """Showers per step, for ``train`` training showers of each class.

    The published number, unless that leaves fewer than 30 steps per epoch (the published samples give 120): a small
    sample would otherwise be judged by a classifier that was hardly trained, which flatters the generator.
    """
    return max(32, min(recipe.batch_size, 2 * train // 30))
