"""What is attacked: models of every kind behind one face, and the meter that counts what is asked of them."""

from hauberk.victims.answers import Output
from hauberk.victims.arrays import ArrayVictim
from hauberk.victims.check import check_inputs, probe
from hauberk.victims.files import load
from hauberk.victims.meter import Meter
from hauberk.victims.onnx import OnnxVictim
from hauberk.victims.preprocess import Statistic
from hauberk.victims.reading import load_object, load_state
from hauberk.victims.sklearn import SklearnVictim
from hauberk.victims.torch import TorchVictim
from hauberk.victims.victim import UNLIMITED, Victim
from hauberk.victims.wrap import wrap

__all__ = [
    "UNLIMITED",
    "ArrayVictim",
    "Meter",
    "OnnxVictim",
    "Output",
    "SklearnVictim",
    "Statistic",
    "TorchVictim",
    "Victim",
    "check_inputs",
    "load",
    "load_object",
    "load_state",
    "probe",
    "wrap",
]
