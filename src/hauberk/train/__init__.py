"""Training: objectives (what is minimised), a recipe (how long and how fast), and `fit`, which is seeded and resumable."""

from hauberk.train._adversarial import Adversarial
from hauberk.train._draws import initialise
from hauberk.train._examples import Examples, collect
from hauberk.train._hypersphere_head import HypersphereHead, with_hypersphere_head
from hauberk.train._objective import Losses, Moment, Objective, finish, prepare
from hauberk.train._status import Status
from hauberk.train._teacher import Teacher
from hauberk.train.adv_prop import AdvProp, DualBatchNorm, extra_parameters
from hauberk.train.alp import ALP
from hauberk.train.augment import Augmentation, Cutout, Flip, RandomCrop
from hauberk.train.averages import EMA, SWA, Average
from hauberk.train.awp import AWP
from hauberk.train.clp import CLP
from hauberk.train.compression import Prune, Quantise, sparsity
from hauberk.train.constraints import ClipWeights, Constraint
from hauberk.train.crown_ibp import CrownIBP
from hauberk.train.curriculum import Curriculum
from hauberk.train.detectors import collapse, robust_overfitting
from hauberk.train.distillation import Distillation
from hauberk.train.distributional import Distributional
from hauberk.train.dynamic import Dynamic
from hauberk.train.fast import FastAdversarial
from hauberk.train.free import Free
from hauberk.train.gaussian import Gaussian
from hauberk.train.grad_align import GradAlign
from hauberk.train.gradient_penalty import GradientPenalty
from hauberk.train.hypersphere import Hypersphere
from hauberk.train.ibp import IBP
from hauberk.train.inner import Inner, InnerPGD
from hauberk.train.jacobian import JacobianPenalty
from hauberk.train.label_smoothing import LabelSmoothing
from hauberk.train.loggers import Logger, MLflow, TensorBoard
from hauberk.train.mart import Mart
from hauberk.train.maxout import Maxout, MaxoutConv2d
from hauberk.train.mixed import Mixed
from hauberk.train.mma import MMA
from hauberk.train.monitor import Monitor
from hauberk.train.mtl_ibp import MtlIBP
from hauberk.train.natural import Natural
from hauberk.train.parallel import World, join
from hauberk.train.parseval import Parseval
from hauberk.train.pgd_at import PGDAT
from hauberk.train.rates import SGD, Adam, Constant, Cyclic, OneCycle, Optimiser, Piecewise, Rate
from hauberk.train.recipe import Recipe
from hauberk.train.records import Epoch
from hauberk.train.regularised import Regularised, Regulariser
from hauberk.train.relu_stability import ReluStability
from hauberk.train.sabr import Sabr
from hauberk.train.self_training import SelfTraining, pseudo_label
from hauberk.train.spectral_norm import SpectralNorm, spectral_norm, without_spectral_norm
from hauberk.train.spectral_projection import SpectralProjection
from hauberk.train.spelling import (
    augmentation_named,
    average_named,
    constraint_named,
    inner_named,
    objective_named,
    objectives,
    optimiser_named,
    rate_named,
    regulariser_named,
    sharpened,
)
from hauberk.train.stages import Stages
from hauberk.train.standing import Standing, standings
from hauberk.train.trades import Trades
from hauberk.train.trainer import Fitted, fit
from hauberk.train.wasserstein_linear import WassersteinLinear, wasserstein_linear
from hauberk.train.wrm import Wrm, WrmCertificate, smoothness_bound, wrm_certificate
from hauberk.train.yopo import Yopo

__all__ = [
    "ALP",
    "AWP",
    "CLP",
    "EMA",
    "IBP",
    "MMA",
    "PGDAT",
    "SGD",
    "SWA",
    "Adam",
    "AdvProp",
    "Adversarial",
    "Augmentation",
    "Average",
    "ClipWeights",
    "Constant",
    "Constraint",
    "CrownIBP",
    "Curriculum",
    "Cutout",
    "Cyclic",
    "Distillation",
    "Distributional",
    "DualBatchNorm",
    "Dynamic",
    "Epoch",
    "Examples",
    "FastAdversarial",
    "Fitted",
    "Flip",
    "Free",
    "Gaussian",
    "GradAlign",
    "GradientPenalty",
    "Hypersphere",
    "HypersphereHead",
    "Inner",
    "InnerPGD",
    "JacobianPenalty",
    "LabelSmoothing",
    "Logger",
    "Losses",
    "MLflow",
    "Mart",
    "Maxout",
    "MaxoutConv2d",
    "Mixed",
    "Moment",
    "Monitor",
    "MtlIBP",
    "Natural",
    "Objective",
    "OneCycle",
    "Optimiser",
    "Parseval",
    "Piecewise",
    "Prune",
    "Quantise",
    "RandomCrop",
    "Rate",
    "Recipe",
    "Regularised",
    "Regulariser",
    "ReluStability",
    "Sabr",
    "SelfTraining",
    "SpectralNorm",
    "SpectralProjection",
    "Stages",
    "Standing",
    "Status",
    "Teacher",
    "TensorBoard",
    "Trades",
    "WassersteinLinear",
    "World",
    "Wrm",
    "WrmCertificate",
    "Yopo",
    "augmentation_named",
    "average_named",
    "collapse",
    "collect",
    "constraint_named",
    "extra_parameters",
    "finish",
    "fit",
    "initialise",
    "inner_named",
    "join",
    "objective_named",
    "objectives",
    "optimiser_named",
    "prepare",
    "pseudo_label",
    "rate_named",
    "regulariser_named",
    "robust_overfitting",
    "sharpened",
    "smoothness_bound",
    "sparsity",
    "spectral_norm",
    "standings",
    "wasserstein_linear",
    "with_hypersphere_head",
    "without_spectral_norm",
    "wrm_certificate",
]
