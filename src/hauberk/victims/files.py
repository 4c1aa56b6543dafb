"""`load`: a victim by the spelling of its file or Python object, as the command line takes it (all but `zoo:NAME`)."""

from typing import Any

from hauberk.errors import SettingError
from hauberk.victims.reading import read
from hauberk.victims.victim import Victim
from hauberk.victims.wire import Wire
from hauberk.victims.wrap import wrap

__all__ = ["load"]


def load(spec: str, *, arch: str | None = None, trust_pickle: bool = False, **wrap_options: Any) -> Victim:
    """The victim that `spec` spells; see `hauberk.victims.reading` for the spellings.

    Args:
        spec: `FILE.safetensors`, `FILE.pt2`, `FILE.pt`, `FILE.onnx`, `sklearn:FILE`, `py:module:object` or `http://...`.
        arch: `module:factory` or `path/to/file.py:factory`, for files that hold weights only; called without arguments.
        trust_pickle: load pickles, which can run any code.
        wrap_options: as `hauberk.victims.wrap` takes them.

    Raises:
        ModelError: it cannot be read, or is no classifier.
        SettingError: an option that means nothing here.
        MissingExtraError: a library that reads this kind of file is not installed.
    """
    known = set(wrap.__annotations__) - {"model", "wire", "return"} | set(Wire.__annotations__)
    unknown = set(wrap_options) - known
    if unknown:
        raise SettingError(f"wrap has no option {min(unknown)!r}")
    return wrap(read(spec, arch=arch, trust_pickle=trust_pickle), **wrap_options)
