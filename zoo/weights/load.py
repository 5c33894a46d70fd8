"""Read, load and save the tensors of a model, strictly: everything fits, or nothing is touched."""

from __future__ import annotations

import cmath
import json
from collections.abc import Collection, Mapping
from io import BufferedReader
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from blocks.accumulators import accumulators_of, wide
from zoo.errors import Problem, WeightsError, listed
from zoo.system.folders import replacing
from zoo.weights.errors import TensorsError, refuse_file
from zoo.weights.header import TensorInfo, as_weights_error, differences, read_header, shape_and_type
from zoo.weights.manifest import Manifest
from zoo.weights.opening import opened
from zoo.weights.operations import bit_equal
from zoo.weights.plain import overlaps, strange_entries
from zoo.weights.wrappers import plain_name, unwrapped

Expected = dict[str, tuple[tuple[int, ...], torch.dtype]]


def expected_header(model: nn.Module) -> Expected:
    """{name: (shape, dtype)} of the model's state dict, in its order."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in model.state_dict().items()}


def ties_of(model: nn.Module) -> list[list[str]]:
    """Groups of state-dict names that are one and the same parameter or buffer."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def read_tensors(path: str | Path, subject: str = "", manifest: Manifest | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, each in memory of its own: what happens to the file later is nothing to them.

    The bytes are those of the manifest and of the lock, the header is sound, or nothing is read (see `opened`). Raises WeightsError."""
    subject = subject or Path(path).name
    with opened(path, subject, manifest) as file:
        header = read_header(file, subject)
        try:
            return {name: _read_tensor(file, info) for name, info in sorted(header.tensors.items(), key=_place)}
        except RuntimeError as error:  # torch's word for memory that cannot be had
            raise as_weights_error(error, subject, str(path)) from None


def _place(item: tuple[str, TensorInfo]) -> tuple[int, int]:
    return item[1].start, item[1].end


def _read_tensor(file: BufferedReader, info: TensorInfo) -> Tensor:
    """The next tensor of an open file. Raises OSError where the file ends before it does."""
    tensor = torch.empty(info.shape, dtype=getattr(torch, info.dtype), device="cpu")
    memory = tensor.view(-1).view(torch.uint8).numpy()
    if (count := file.readinto(memory)) != memory.nbytes:  # type: ignore[arg-type]
        raise OSError(f"it ends {memory.nbytes - count:,} bytes too early")
    return tensor


def load_state(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    subject: str,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    keep: Collection[str] = (),
) -> None:
    """Give the model these tensors (same names, shapes, dtypes; plain, dense, finite), then make its non-persistent buffers.

    Tensors are assigned, not copied, so a model on meta needs no memory of its own; `requires_grad` stays as it was. One whose
    places share bytes, as `expand` makes them, is copied. No value is looked at of a tensor that does not fit.
    Of tied names one is enough. `dtype`: every floating tensor and buffer is converted to it, whatever the file holds;
    without it another dtype is refused. Buffers that accumulate small steps are float32 whatever is said and found.
    `keep`: names that keep the model's own values, made before (see `adapt`).
    Raises WeightsError naming every tensor that is wrong; the model then has the parameters that it had."""
    before = model.state_dict(keep_vars=True)
    own = {plain_name(name): name for name in before}  # longer ones where a layer is compiled by itself
    tensors = {own.get(name, name): tensor for name, tensor in tensors.items()}
    problems = _kept_problems(before, keep)
    kept = {name: before[name].detach() for name in keep if name in before}
    if strange := strange_entries(tensors):
        raise TensorsError(subject, problems + strange)
    given, ties, grown = kept | tensors, ties_of(model), accumulators_of(model)
    given |= {name: tensor.to(wide(tensor.dtype)) for name, tensor in given.items() if name in grown}
    found = {name: shape_and_type(tensor.shape, tensor.dtype) for name, tensor in given.items()}
    expected = {name: shape_and_type(tensor.shape, tensor.dtype) for name, tensor in before.items()}
    problems += differences(found, expected, ties, any_float=dtype is not None)
    misfits = {problem.where for problem in problems}
    fitting = {name: _apart(tensor) for name, tensor in given.items() if name not in misfits}
    problems += _other_values(fitting, ties)
    problems += _not_finite({name: tensor for name, tensor in fitting.items() if name not in keep})
    if not problems:
        wanted = dict.fromkeys(grown, dtype and wide(dtype))
        complete = {
            name: _moved(tensor, wanted.get(name, dtype), device) for name, tensor in _spread(fitting, ties).items()
        }
        problems += _not_finite(complete, dtype) if dtype else []
    if problems:
        raise TensorsError(subject, problems)
    model.load_state_dict(_as_parameters(complete, before), strict=True, assign=True)
    try:
        _make_buffers(model, dtype, device)
        if left := _left_on_meta(model):
            raise TensorsError(subject, left)
    except BaseException:
        model.load_state_dict(before, strict=True, assign=True)
        raise


def put_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """These very tensors under their names, unchecked: a parameter stays the object that an optimiser knows."""
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        place = owner._parameters if leaf in owner._parameters else owner._buffers
        place[leaf] = tensor  # type: ignore[assignment]


def save_weights(model: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the model's state dict as safetensors: whole or not at all, tied tensors once, under their first name.

    What `torch.compile` and DDP put around the model, or around a layer, leaves no trace in the names. The same tensors and the same
    `metadata` give the same bytes. Raises WeightsError; a file that was at `path` before is then still there, unchanged."""
    path, model = Path(path), unwrapped(model)
    doubles = {name for group in ties_of(model) for name in group[1:]}
    once = {name: tensor for name, tensor in model.state_dict().items() if name not in doubles}
    # cloned: safetensors refuses tensors that share memory, such as slices of one packed parameter
    tensors = {
        plain_name(name): tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in once.items()
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            draft.touch()
            mode = draft.stat().st_mode  # of any new file here; safetensors makes files that only their owner can read
            safetensors.torch.save_file(tensors, draft, metadata={"format": "pt", **(metadata or {})})
            draft.chmod(mode)
            _sort_metadata(draft)
            read_header(draft)  # a full disk may show only as a short file
    except (SafetensorError, OSError, ValueError, WeightsError) as error:
        raise refuse_file(f"{path.name}: the weights cannot be written", str(path), found=str(error)) from None


def _sort_metadata(path: Path) -> None:
    """Metadata in the order of its names: safetensors writes it in another order at each call, and with it another hash."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        content = json.loads(file.read(length))
        content["__metadata__"] = dict(sorted(content["__metadata__"].items()))
        header = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
        if len(header) <= length:  # another spelling of the same text; the rest is the padding that the format allows
            file.seek(8)
            file.write(header.ljust(length))


def _kept_problems(own: Mapping[str, Tensor], keep: Collection[str]) -> list[Problem]:
    unknown = [Problem(name, found="a tensor to keep that the model does not have") for name in keep if name not in own]
    empty = [name for name in keep if name in own and own[name].is_meta]
    return unknown + [Problem(name, "values to keep", "none: the tensor is on meta") for name in empty]


def _apart(tensor: Tensor) -> Tensor:
    """The tensor, copied if places of it share bytes, or if its bytes are other values than it has (conjugate, negative)."""
    if overlaps(tensor.shape, tensor.stride()) or tensor.is_conj() or tensor.is_neg():
        return tensor.clone(memory_format=torch.contiguous_format).resolve_conj().resolve_neg()
    return tensor


def _other_values(tensors: Mapping[str, Tensor], ties: list[list[str]]) -> list[Problem]:
    """Names of a tie that are there with other values than the first of it."""
    problems = []
    for group in ties:
        first, *others = [name for name in group if name in tensors] or [""]
        expected = f"the values of {listed([first])}, with which it is shared"
        unequal = (name for name in others if not bit_equal(tensors[first], tensors[name]))
        problems += [Problem(name, expected, "other values") for name in unequal]
    return problems


def _spread(tensors: dict[str, Tensor], ties: list[list[str]]) -> dict[str, Tensor]:
    """Every name of a tie gets its one tensor."""
    owners = {name: next(member for member in group if member in tensors) for group in ties for name in group}
    return tensors | {name: tensors[owner] for name, owner in owners.items()}


def _not_finite(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> list[Problem]:
    """One problem for each tensor with NaN or infinite values; `dtype` if it is a conversion that made them so."""
    problems = (_not_finite_in(name, tensor, dtype) for name, tensor in tensors.items())
    return [problem for problem in problems if problem]


def _not_finite_in(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Problem | None:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return None
    if tensor.element_size() > 1 and cmath.isfinite(tensor.sum().item()):
        return None  # one pass without memory of its own; a sum that overflows is looked at again
    bad = ~torch.isfinite(tensor if tensor.element_size() > 1 else tensor.float())  # float8 has no isfinite
    if not bad.any():
        return None
    place = tuple(bad.nonzero()[0].tolist())
    expected = f"finite values in {str(dtype).removeprefix('torch.')}" if dtype else "finite values"
    return Problem(name, expected, f"{int(bad.sum()):,} NaN or infinite, the first at {place}")


def _moved(tensor: Tensor, dtype: torch.dtype | None, device: torch.device | str | None) -> Tensor:
    return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)


def _as_parameters(tensors: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters where the model has parameters, one object per tie, so that assigning does not break the tie."""
    by_id: dict[int, Tensor] = {}
    state = {}
    for name, old in before.items():
        if id(old) not in by_id:
            new = tensors[name]
            by_id[id(old)] = (
                nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
            )
        state[name] = by_id[id(old)]
    return state


def _make_buffers(model: nn.Module, dtype: torch.dtype | None, device: torch.device | str | None) -> None:
    """Call `reset_buffers()` of every module that has it, then convert what it made as `model.to(dtype)` would.

    `init_non_persistent_buffers()` is timm's name for the same.
    A buffer on meta gets memory first, so that a module may fill what it has, or put new tensors in its place."""
    with torch.device(device or "cpu"):
        for module in model.modules():
            reset = getattr(module, "reset_buffers", None) or getattr(module, "init_non_persistent_buffers", None)
            if callable(reset):
                empty = _given_memory(module, device)
                reset()
                for name, memory in empty.items():
                    if module._buffers.get(name) is memory and memory._version == 0:  # nobody wrote to it
                        module._buffers[name] = memory.to("meta")
    for module in model.modules():
        for name in module._non_persistent_buffers_set:
            buffer = module._buffers.get(name)
            if buffer is not None and not buffer.is_meta:
                module._buffers[name] = _moved(buffer, dtype, device)


def _given_memory(module: nn.Module, device: torch.device | str | None) -> dict[str, Tensor]:
    """Memory without values for the module's own non-persistent buffers on meta; returns what it made."""
    names = [
        name for name in module._non_persistent_buffers_set if getattr(module._buffers.get(name), "is_meta", False)
    ]
    buffers = {name: torch.empty_like(module._buffers[name], device=device or "cpu") for name in names}  # type: ignore[arg-type]
    module._buffers.update(buffers)
    return buffers


def _left_on_meta(model: nn.Module) -> list[Problem]:
    """What still has no values: buffers outside the state dict that no `reset_buffers` makes."""
    return [
        Problem(name, "values made by `reset_buffers()` of its module", "none: the buffer is on meta")
        for name, buffer in model.named_buffers()
        if buffer.is_meta
    ]
