"""What people import: the six lines of the README, the same numbers as on the command line, and one sentence for mistakes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import caloforge as cf
from caloforge import datasets
from caloforge.cli.main import main
from caloforge.errors import ConfigError, OutputError, ShowerFileError, UsageError

TRAIN = "calogan-gamma-sample:train"
TEST, FLOOR = "calogan-gamma-sample:test", "calogan-gamma-sample:floor"


@pytest.fixture(scope="module")
def model() -> cf.Model:
    return cf.load("calogan-gamma")


@pytest.fixture(scope="module")
def showers(model: cf.Model) -> cf.Showers:
    made = model.sample(60, energy="1:100", seed=1)
    assert isinstance(made, cf.Showers)
    return made


@pytest.fixture(scope="module")
def result(showers: cf.Showers) -> cf.Result:
    return cf.evaluate(showers, cf.read(TEST, events=80), floor=cf.read(FLOOR, events=80), only=["fpd", "response"])


def test_the_package_opens_at_once_and_knows_its_names() -> None:
    """Mutation: import ``caloforge.api`` in the package's own module instead of when a name is used."""
    code = (
        "import sys, caloforge as cf\n"
        "print({'torch', 'numpy', 'pydantic', 'h5py', 'matplotlib'} & set(sys.modules))\n"
        "assert set(cf.__all__) <= set(dir(cf))\n"
        "assert all(getattr(cf, name) is not None for name in cf.__all__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        cf.nonsense  # type: ignore[attr-defined] # noqa: B018


def test_the_six_lines_stand_in_the_readme() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    lines = readme.split("```python\n")[1].split("```")[0]
    assert len([line for line in lines.splitlines() if line]) == 6
    quick = lines.replace("1000, ", "60, ").replace("floor=floor", "floor=floor, only=['fpd']")
    names: dict[str, object] = {}
    exec(quick, names)
    assert isinstance(names["result"], cf.Result)


def test_a_model_says_what_it_is(model: cf.Model) -> None:
    assert (model.kind, model.particle, model.detector.name) == ("caloflow", "gamma", "calogan")
    assert model.energy_range == pytest.approx((1, 100), rel=0.15)  # GeV
    assert repr(model).startswith("<Model: caloflow of gamma, ")
    card = dict(model.card())
    assert (card["model"], card["likelihood"]) == ("caloflow", "exact")
    assert card["aids"].startswith("marginal-start, rejection (most 2.5, ")
    assert "17010 showers" in card["trained on"]


def test_showers_carry_their_detector_and_where_they_come_from(model: cf.Model, showers: cf.Showers) -> None:
    assert showers.detector == model.detector
    assert showers[3:5].detector == model.detector
    assert showers.above(1.0).detector == model.detector
    assert showers.provenance["model"]["sha256"] == model.record.weights_sha256
    read = cf.read(TEST, events=5)
    assert read.detector is not None
    assert read.detector.name == "calogan"
    assert repr(read).startswith("<Showers: 5 gamma, ")


def test_python_and_the_command_line_make_the_same_showers(
    model: cf.Model, showers: cf.Showers, tmp_path: Path
) -> None:
    out = tmp_path / "g.h5"
    assert (
        main(["generate", "calogan-gamma", "--energy", "1:100", "--events", "60", "--seed", "1", "--out", str(out)])
        == 0
    )
    written = cf.read(out)
    assert isinstance(written, cf.Showers)
    assert np.array_equal(written.incident_energy, showers.incident_energy)
    np.testing.assert_allclose(written.deposits, showers.deposits, rtol=1e-4, atol=1e-3)
    model.generate(tmp_path / "again.h5", 60, "1:100", seed=1)
    again = cf.read(tmp_path / "again.h5")
    assert isinstance(again, cf.Showers)
    assert np.array_equal(again.deposits, written.deposits)


def test_energies_are_gev_in_every_form(model: cf.Model) -> None:
    """Mutation: take a list of energies for MeV."""
    for energy in ([5.0, 50.0], np.array([5, 50]), "5,50"):
        made = model.sample(2, energy=energy, seed=3)
        assert set(made.incident_energy) <= {5e3, 5e4}
    assert (model.sample(2, energy=20).incident_energy == 2e4).all()
    like = cf.read(TEST, events=4)
    assert np.array_equal(model.sample(like=like).incident_energy, like.incident_energy)
    assert len(model.sample(3, like=like)) == 3
    assert len(model.sample(3, like=datasets.path("calogan-gamma-sample", split="test"))) == 3


def test_log_prob_is_that_of_the_command_line(model: cf.Model, tmp_path: Path) -> None:
    showers = cf.read(TEST, events=12)
    table = tmp_path / "logp.csv"
    assert main(["convert", str(datasets.path("calogan-gamma-sample", split="test")), str(tmp_path / "t.h5")]) == 0
    assert main(["likelihood", "calogan-gamma", str(tmp_path / "t.h5"), "--out", str(table)]) == 0
    written = np.genfromtxt(table, delimiter=",", names=True)["log_prob_nats"][:12]
    np.testing.assert_allclose(model.log_prob(showers, batch_size=5), written, rtol=1e-5)


def test_a_result_shows_itself_and_writes_the_report(result: cf.Result, tmp_path: Path) -> None:
    assert result.scores["fpd"] == result.data.generated.fpd.value  # type: ignore[union-attr]
    assert set(result.floor) == set(result.scores)
    assert str(result).startswith("Classifiers: ")
    files = result.save(tmp_path / "report")
    assert files.page is not None
    assert files.page.is_file()
    assert json.loads(files.data.read_text())["generated"]["fpd"]["value"] == result.scores["fpd"]
    with pytest.raises(OutputError, match="holds a report already"):
        result.save(tmp_path / "report")
    result.save(tmp_path / "report", overwrite=True, formats=(), page=False)


def test_everything_shows_itself_in_a_notebook(model: cf.Model, showers: cf.Showers, result: cf.Result) -> None:
    points = cf.read("ild-gamma-clouds:test", events=5)
    pages = [what._repr_html_() for what in (model, showers, points, result, model.detector, showers[:0])]
    for page in pages:
        assert page.startswith('<div class="caloforge">')
        assert page.endswith("</div>")
        assert "<script" not in page
    pictures = [len(re.findall(r'src="data:image/png;base64,', page)) for page in pages]
    assert pictures == [0, 2, 2, 0, 1, 0]  # showers: their spectra and one event
    assert "improved" in pages[0]
    assert "Fréchet physics distance" in pages[3]


def test_a_model_is_trained_from_showers_in_memory(tmp_path: Path) -> None:
    data = cf.read("calogan-gamma-sample:train", events=120)
    options = {"overrides": ["training.epochs=1"], "show": False}
    model = cf.train("caloflow-tiny", data, tmp_path / "m", seed=1, **options)
    made = model.sample(5, energy=50)
    assert made.detector == data.detector
    assert model.record.training["data"]["provenance"] == dict(data.provenance)
    with pytest.raises(UsageError, match="were used to train this model"):
        cf.evaluate(model.sample(50, energy="1:100"), data, only=["fpd"], allow_mismatch=True)
    again = cf.train("caloflow-tiny", data, tmp_path / "n", seed=1, **options)
    assert again.record.weights_sha256 == model.record.weights_sha256


def test_a_model_that_needs_no_training_is_made_for_a_detector() -> None:
    model = cf.load("gflash", detector="calogan")
    made = model.sample(3, energy="10:20", seed=1)
    assert (model.particle, len(made)) == ("gamma", 3)
    assert made.detector == cf.detector("calogan")
    assert 'class="caloforge"' in model._repr_html_()
    with pytest.raises(UsageError, match="makes no showers without training"):
        cf.load("caloflow-tiny", detector="calogan")
    with pytest.raises(UsageError, match="beside a detector"):
        cf.load("calogan-gamma", particle="e+")


@pytest.mark.geant4
def test_fresh_showers_from_geant4_stay_in_memory_or_go_to_a_file(tmp_path: Path) -> None:
    made = cf.simulate("calogan", particle="gamma", energy=1, events=3, seed=2, jobs=1)
    written = cf.simulate("calogan", particle="gamma", energy="1", events=3, seed=2, jobs=2, out=tmp_path / "s.h5")
    assert isinstance(made, cf.Showers)
    assert isinstance(written, cf.Showers)
    assert np.array_equal(made.deposits, written.deposits)
    assert (made.incident_energy == 1000).all()
    assert (tmp_path / "s.h5").is_file()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.sample(5), UsageError, "expected either energy='1:100'"),
        (lambda m: m.sample(5, energy="1:1000"), UsageError, "the model was trained from"),
        (lambda m: m.sample(5, energy="1-100"), UsageError, "the energy '1-100' is not understood"),
        (lambda m: m.sample(5, energy=[1, 2]), UsageError, "5 showers were asked for, but 2 energies are given"),
        (lambda m: m.sample(energy=[[1.0]]), UsageError, "expected one number"),
        (lambda m: m.sample(energy=["one"]), UsageError, "is not understood"),
        (lambda m: m.sample(0, energy=5), UsageError, "0 showers were asked for"),
        (lambda m: m.sample(5, energy=5, random_directions=True), UsageError, "no range of directions"),
        (lambda m: m.log_prob(cf.read("ild-gamma-clouds:test", events=3)), UsageError, "do not have the readout"),
        (lambda m: cf.read("calogan-gamma-sample"), UsageError, "has several splits"),
        (lambda m: cf.read("nothing.h5"), ShowerFileError, "there is no such file"),
        (lambda m: cf.read([TEST, "ild-gamma-clouds:test"]), ShowerFileError, "cannot be joined"),
        (lambda m: cf.train("caloflow-huge", TRAIN, "x"), UsageError, "the preset 'caloflow-huge' is not known"),
        (lambda m: cf.train("caloflow-tiny", TRAIN, "x", overrides=["model.n=1"]), ConfigError, "'n' is not known"),
        (
            lambda m: cf.train("caloflow-tiny", TEST, "x"),
            UsageError,
            "never trained on, expected 'calogan-gamma-sample:train'",
        ),
        (lambda m: cf.evaluate(TEST, FLOOR, only="fpd"), UsageError, "only is 'fpd', expected a list of words"),
        (lambda m: cf.evaluate(TEST, "ild-gamma-clouds:test"), UsageError, "not of the same kind"),
    ],
)
def test_mistakes_get_one_sentence(
    model: cf.Model, call: object, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=re.escape(message)) as caught:
        call(model)  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
