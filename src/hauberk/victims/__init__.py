"""What is attacked: models of every kind behind one face, and the meter that counts what is asked of them."""

from hauberk.victims.answers import Output
from hauberk.victims.arrays import ArrayVictim
from hauberk.victims.bpda import BpdaVictim, bpda
from hauberk.victims.check import check_inputs, probe
from hauberk.victims.dead import dead_modules
from hauberk.victims.ensemble import EnsembleVictim, ensemble
from hauberk.victims.eot import EotVictim, Votes, eot
from hauberk.victims.files import load
from hauberk.victims.http import HttpVictim
from hauberk.victims.meter import Meter
from hauberk.victims.onnx import OnnxVictim
from hauberk.victims.preprocess import Statistic
from hauberk.victims.reading import load_object, load_state
from hauberk.victims.rendered import Rendered, posed, shown
from hauberk.victims.serving import ModelServer
from hauberk.victims.sklearn import SklearnVictim
from hauberk.victims.torch import TorchVictim
from hauberk.victims.victim import UNLIMITED, Victim
from hauberk.victims.wrap import wrap

__all__ = [
    "UNLIMITED",
    "ArrayVictim",
    "BpdaVictim",
    "EnsembleVictim",
    "EotVictim",
    "HttpVictim",
    "Meter",
    "ModelServer",
    "OnnxVictim",
    "Output",
    "Rendered",
    "SklearnVictim",
    "Statistic",
    "TorchVictim",
    "Victim",
    "Votes",
    "bpda",
    "check_inputs",
    "dead_modules",
    "ensemble",
    "eot",
    "load",
    "load_object",
    "load_state",
    "posed",
    "probe",
    "shown",
    "wrap",
]
