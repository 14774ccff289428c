"""Configuration that the models of point clouds share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from caloforge.validation import Count, Settings, Size

__all__ = ["SAMPLERS", "EdmConstants", "PointCloudConfig", "Sampler", "ShowerFlowSize"]

Sampler = Literal["consistency", "edm"]
SAMPLERS: tuple[Sampler, ...] = ("consistency", "edm")

Positive = Annotated[float, Field(gt=0)]


class ShowerFlowSize(Settings):
    """Size of the flow.

    Attributes:
        blocks: of six affine couplings and a spline each.
        affine_hidden: width of the couplings' networks; None takes 10 times the number of outputs, as published.
        spline_hidden: width of the splines' networks; None takes 4 times, as published.
        bins: spline bins.
        bound: the splines act on [-bound, bound].
    """

    blocks: Count
    affine_hidden: Size | None = None
    spline_hidden: Size | None = None
    bins: Annotated[int, Field(ge=2)] = 8
    bound: Positive = 3.0


class EdmConstants(Settings):
    """Constants of the diffusion, see ``caloforge.nn.edm.Edm``; the defaults are the published ones."""

    sigma_data: Positive = 0.5
    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    rho: Positive = 7.0
    log_mean: float = -1.2
    log_std: Positive = 1.2


class PointCloudConfig(Settings):
    """Configuration that all models of point clouds share.

    Attributes:
        flow: size of the flow.
        widths: hidden widths of the point network.
        time_features: length of the embedding of the noise level.
        fourier_std: spread of the frequencies of that embedding.
        box: points further than half of this from the shower axis in x or y are left out, mm.
        position_fuzz: full width of a uniform shift of every point in training, mm; for points at the centres of sub-cells.
        positions: how places are normalised, see ``PointNormalisation``.
        core_share: share of the coordinates that lie within the scale c of ``positions: asinh``; a small one spreads the
            core of the showers more.
        point_energy: how energies of points are normalised, see ``PointNormalisation``.
        outside_box: what becomes of generated points outside the box: ``reflected`` at its edge, or ``kept``.
        profiles: ``sqrt`` lets the flow learn square roots of counts and energies, whose spread hardly depends on the
            energy; ``linear`` the values themselves, as published.
        profile_noise: standard deviation of the noise on the flow's standardised outputs in training.
        condition_units: what incident energy and number of points are measured by as conditions: the highest energy of the
            training ``data`` and the most points at it, or the ``published`` constants.
        max_negative: a shower is drawn again if more of its layer energies than this come out negative.
        cell: size of the cells for the calibration, mm; None takes the detector's.
        edm: constants of the diffusion.
        training_points: how many points of each shower a training step takes; None takes all.
        noise_levels: into how many parts with a noise level of their own the points of a shower are divided in training.
        distillation_levels: noise levels between which the one-step model is distilled; with 2 it learns the end of the
            teacher's whole path.
        teacher_steps: steps that the teacher takes from one of these levels to the next.
        distillation_reuse: for how many epochs the noise of a shower and the teacher's answer to it are kept (in memory).
        target_decay: share of the distillation's target network that survives a step.
        sampler: ``consistency`` makes points in one step, ``edm`` in ``2 * edm_steps - 1`` calls of the network.
        edm_steps: noise levels of the ``edm`` sampler.
        occupancy: what the calibration finds: one ``factor`` on the number of points (arXiv:2511.01460), or ``polynomial``, a
            function of the number of points (arXiv:2309.05704).
        calibration_showers: how many showers the calibration looks at, at most.
        edm_calibration_showers: how many of these for the ``edm`` sampler, which takes many times as long; None takes all.
    """

    flow: ShowerFlowSize
    widths: Annotated[tuple[Size, ...], Field(min_length=1)]
    time_features: Annotated[int, Field(ge=2, multiple_of=2)] = 64
    fourier_std: Positive = 16.0
    box: Positive
    position_fuzz: Annotated[float, Field(ge=0)] = 0.0
    positions: Literal["asinh", "standard", "box"]
    core_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    point_energy: Literal["log", "linear"]
    outside_box: Literal["reflected", "kept"] = "reflected"
    profiles: Literal["sqrt", "linear"] = "sqrt"
    profile_noise: Annotated[float, Field(ge=0)] = 0.1
    condition_units: Literal["data", "published"] = "data"
    max_negative: Annotated[int, Field(ge=0)] = 7
    cell: Positive | None = None
    edm: EdmConstants = EdmConstants()
    training_points: Size | None = None
    noise_levels: Size = 1
    distillation_levels: Annotated[int, Field(ge=2)] = 18
    teacher_steps: Size = 1
    distillation_reuse: Size = 1
    target_decay: Annotated[float, Field(ge=0, lt=1)] = 0.95
    sampler: Sampler = "consistency"
    edm_steps: Annotated[int, Field(ge=2)] = 18
    occupancy: Literal["factor", "polynomial"] = "factor"
    calibration_showers: Size = 1500
    edm_calibration_showers: Size | None = 100
