"""`wrap`: whatever a user calls a model, made a victim."""

from pathlib import Path
from typing import Any, Unpack, overload

import torch
from torch import nn

from hauberk.errors import ModelError, SettingError
from hauberk.threat import Labelled
from hauberk.victims.answers import Output
from hauberk.victims.arrays import ArrayVictim
from hauberk.victims.http import Endpoint, HttpVictim
from hauberk.victims.onnx import OnnxVictim
from hauberk.victims.preprocess import Normalisation, Statistic
from hauberk.victims.reading import Found, read
from hauberk.victims.sklearn import SklearnVictim
from hauberk.victims.torch import FixedBatch, TorchVictim
from hauberk.victims.victim import Victim, check_bounds, resolve_device, resolve_dtype
from hauberk.victims.wire import Wire

__all__ = ["wrap"]


@overload
def wrap(
    model: nn.Module,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    mean: Statistic | None = None,
    std: Statistic | None = None,
    output: Output = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    classes: int | None = None,
    name: str | None = None,
    fold: bool = True,
    compile: bool | str = False,
    **wire: Unpack[Wire],
) -> TorchVictim: ...
@overload
def wrap(
    model: Any,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    mean: Statistic | None = None,
    std: Statistic | None = None,
    output: Output = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    classes: int | None = None,
    name: str | None = None,
    fold: bool = True,
    compile: bool | str = False,
    **wire: Unpack[Wire],
) -> Victim: ...
def wrap(
    model: Any,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    mean: Statistic | None = None,
    std: Statistic | None = None,
    output: Output = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    classes: int | None = None,
    name: str | None = None,
    fold: bool = True,
    compile: bool | str = False,  # noqa: A002  # the word torch users know
    **wire: Any,
) -> Any:
    """A victim that answers as `model` does, for inputs that always live in `bounds`.

    Args:
        model: an `nn.Module`, a program of `torch.export`, a fitted scikit-learn classifier, a function from a numpy batch to
            scores or labels, the path of a TorchScript, `.pt2`, `.onnx` or `.skops` file, or the `http://` address of a model. A
            victim is given back as it is.
        bounds: the smallest and largest value of an input.
        mean, std: the model is given (x - mean) / std; a number or one per channel (axis 1), in the units of `bounds`.
        output: where the scores are in the answer: a key, an index or a function; or what they are: "logits",
            "probabilities" or "labels". With None, probabilities and labels are recognised by the first answer and noted.
        device: where the model runs; where its weights are if None.
        dtype: "float32" or "float64"; what its weights are if None.
        classes: the number of classes, checked against the answers.
        name: in reports; the model's type if None.
        fold: fold batch norms into the layers before them (exact but for rounding; `nn.Module` only).
        compile: run through `torch.compile`: True, or the name of a backend (`nn.Module` only).
        wire: how to ask a model over HTTP (addresses only); see `hauberk.victims.wire.Wire`.

    The model is left as it is: PyTorch modules are copied, and the copy is frozen and in eval mode.

    Raises:
        ModelError: it cannot be used as a classifier.
        SettingError: an option that means nothing, or nothing for this kind of model.
    """
    given = {
        "bounds": bounds != (0.0, 1.0),
        "mean": mean is not None,
        "std": std is not None,
        "output": output is not None,
    }
    given |= {"device": device is not None, "dtype": dtype is not None, "classes": classes is not None}
    given |= {"name": name is not None, "fold": not fold, "compile": bool(compile)}
    given |= dict.fromkeys(wire, True)
    if unknown := set(wire) - set(Wire.__annotations__):
        raise SettingError(f"wrap has no option {min(unknown)!r}")
    notes: tuple[str, ...] = ()
    found = read(str(model)) if isinstance(model, str | Path) else model
    if isinstance(found, Found):
        model, notes, name = found.model, found.notes, found.name if name is None else name
    if not isinstance(model, nn.Module | type) and isinstance(model, Labelled):
        refused = [option for option, is_given in given.items() if is_given]
        if refused:
            raise SettingError(
                f"{', '.join(refused)} cannot be changed on a model that is wrapped already; wrap the bare model"
            )
        return model
    if isinstance(model, type):
        raise ModelError(f"got the class {model.__name__}, expected a model; build one: {model.__name__}(...)")
    if wire and not isinstance(model, Endpoint):
        raise SettingError(
            f"{', '.join(wire)} {'are' if len(wire) > 1 else 'is'} for models over HTTP, got {_name(model)}; leave it out"
        )
    bounds = check_bounds(bounds)
    normalisation = Normalisation.of(mean, std, bounds)
    wanted = resolve_dtype(dtype)
    common: dict[str, Any] = {"bounds": bounds, "normalisation": normalisation, "output": output, "classes": classes}
    if isinstance(model, torch.export.ExportedProgram):
        name = name or "exported program"
        model = _exported(model)
    if isinstance(model, nn.Module):
        module = _bare(model)
        where, own = _placed(module)
        if wanted is None and own not in (torch.float32, torch.float64):
            notes = (*notes, f"The weights are {str(own).removeprefix('torch.')}: the copy computes in float32.")
        wanted = wanted or (torch.float64 if own == torch.float64 else torch.float32)
        return TorchVictim(
            module,
            **common,
            device=resolve_device(device, where),
            dtype=wanted,
            name=name or _name(module),
            fold=fold,
            compile=compile,
            notes=notes,
        )
    if given["compile"] or given["fold"]:
        raise SettingError(f"fold and compile are for PyTorch modules, got {_name(model)}; leave them out")
    if isinstance(model, Endpoint):
        where = resolve_device(device, torch.device("cpu"))
        return HttpVictim(model.url, **common, device=where, dtype=wanted, name=name or None, notes=notes, **wire)
    common |= {"device": resolve_device(device, torch.device("cpu")), "name": name or _name(model), "notes": notes}
    if isinstance(model, Path):
        return OnnxVictim(model, **common, dtype=wanted)
    if hasattr(model, "predict") and hasattr(model, "fit"):
        return SklearnVictim(model, **common, dtype=wanted or torch.float64)
    if callable(model):
        return ArrayVictim(model, **common, dtype=wanted or torch.float32)
    cure = "; load its weights into the architecture" if isinstance(model, dict) else ""
    raise ModelError(
        f"cannot wrap {type(model).__name__}: expected an nn.Module, a fitted classifier, a function on arrays or a file{cure}"
    )


def _bare(module: nn.Module) -> nn.Module:
    """The module inside the shells of DataParallel and torch.compile."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(getattr(module, "_orig_mod", None), nn.Module):
            module = module._orig_mod  # type: ignore[assignment]
        else:
            return module


def _placed(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    tensors = [*module.parameters(), *module.buffers()]
    if any(tensor.device.type == "meta" for tensor in tensors):
        raise ModelError(
            f"{_name(module)} has weights on the meta device, which hold no numbers; load its weights first"
        )
    floats = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
    return (tensors[0].device if tensors else torch.device("cpu")), (floats[0] if floats else torch.float32)


def _exported(program: torch.export.ExportedProgram) -> nn.Module:
    """The program's module, that takes any batch size."""
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    if len(inputs) != 1:
        raise ModelError(f"the exported program has {len(inputs)} inputs, expected one batch of examples")
    sizes = tuple(inputs[0].meta["val"].shape)
    module = program.module()
    module.training = False  # the mode was fixed at export; the flag means nothing
    if sizes and isinstance(sizes[0], int):
        return FixedBatch(module, sizes[0])
    return module


def _name(model: Any) -> str:
    if isinstance(model, torch.jit.ScriptModule):
        return str(getattr(model, "original_name", "TorchScript"))
    if isinstance(model, Path):
        return model.stem
    return getattr(model, "__name__", None) or type(model).__name__
