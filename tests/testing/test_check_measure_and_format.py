"""``check_measure`` and ``check_format`` take what is sound and say of broken ones what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from caloforge_toy.format import FORMAT
from caloforge_toy.measure import MEASURE

from caloforge.evaluation import Comparison, Number
from caloforge.showers import Showers
from caloforge.showers.formats import registry
from caloforge.showers.formats.base import Block, Format
from caloforge.testing import CheckFailedError, check_format, check_measure, toy_detector

# ---- measures


def one(value: float) -> list[Number]:
    return [Number(title="a number", value=value, best="0")]


def changes_showers(job: Comparison) -> list[Number]:
    assert isinstance(job.generated, Showers)
    job.generated.deposits[0] = 0
    return one(float(job.generated.deposits.mean()))


_unseeded = np.random.default_rng()

BROKEN_MEASURES = {
    "numbers: it gives a float": lambda job: [1.0],
    "numbers: 'a number' is": lambda job: [Number.model_construct(title="a number", value=np.nan, error=None, best="0")],
    "numbers: it gives no number": lambda job: [],
    "numbers: ZeroDivisionError": lambda job: one(1 / 0),
    "showers: it changes": changes_showers,
    "random numbers: the same showers": lambda job: one(_unseeded.random()),
    "damage: none of its numbers tells": lambda job: one(float(job.generated.incident_energy.mean())),
}  # fmt: skip


def test_a_sound_measure_gives_its_floor() -> None:
    (floor,) = check_measure(MEASURE)
    assert floor.value == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("message", BROKEN_MEASURES)
def test_a_broken_measure_is_rejected(message: str) -> None:
    with pytest.raises(CheckFailedError, match=f"^{message}") as caught:
        check_measure(replace(MEASURE, run=BROKEN_MEASURES[message]))
    assert "\n" not in str(caught.value)


def test_a_measure_that_is_not_known_or_fills_another_field_is_rejected() -> None:
    with pytest.raises(CheckFailedError, match="name: the measure 'nonsense' is not known"):
        check_measure("nonsense")
    with pytest.raises(CheckFailedError, match="name: it fills 'fpd'"):
        check_measure(replace(MEASURE, field="fpd"))


# ---- formats


@pytest.fixture(autouse=True)
def _formats() -> Iterator[None]:
    known = dict(registry.own_formats())
    yield
    registry.own_formats().clear()
    registry.own_formats().update(known)


def offer(form: Format) -> str:
    registry.own_formats()[form.name] = form
    return form.name


@pytest.mark.parametrize("name", ["native", "calochallenge", "calogan", "showerdata"])
def test_every_format_of_the_package_keeps_what_all_promise(name: str) -> None:
    assert check_format(name)


def test_ild_keeps_it_too_on_one_block_of_cells() -> None:
    assert check_format("ild", detector=toy_detector((3, 3), (3, 3))) == ["voxels"]


def test_a_sound_format_passes() -> None:
    assert check_format(offer(FORMAT)) == ["voxels"]


def _encoder(change: Any) -> Any:
    def make(readout: Any) -> Any:
        encode = FORMAT.encoder(readout)  # type: ignore[misc]
        return lambda block: encode(change(block))

    return make


def _shuffled(block: Block) -> Block:
    return block[np.arange(len(block))[::-1].copy()]


BROKEN_FORMATS = {
    "reading: .*seems to be in the wrong unit": {"encoder": _encoder(lambda b: replace(b, deposits=b.deposits * 1000))},
    "reading: the deposits are others": {"encoder": _encoder(lambda b: replace(b, deposits=b.deposits * 2))},
    "reading: the incident energies are others": {"encoder": _encoder(_shuffled)},
    "recognition: it takes files of the format": {"sniff": lambda file: True},
    "reading: .*no shower file of a known format": {"sniff": lambda file: False},
}


@pytest.mark.parametrize("message", BROKEN_FORMATS)
def test_a_broken_format_is_rejected(message: str) -> None:
    with pytest.raises(CheckFailedError, match=f"^{message}"):
        check_format(offer(replace(FORMAT, **BROKEN_FORMATS[message])))


def test_a_format_that_is_not_known_or_cannot_be_written_is_rejected() -> None:
    for name in ("nonsense", "hits"):
        with pytest.raises(CheckFailedError, match=f"name: the format '{name}' is not known"):
            check_format(name)
