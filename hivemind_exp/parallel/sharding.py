"""A model's weights, gradients and optimizer state, divided among processes with PyTorch's FSDP2 (``fully_shard``).

Zhao et al. 2023, arXiv 2304.11277. Each layer's weights are gathered for its forward and backward pass, and freed
afterwards; its gradients are added up and divided again. So every process must compute the same number of passes.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import group
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.optim import Optimizer


class Sharding:
    """Divides models among all processes of this one's process group, which must exist already."""

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        """``device``: this process's, of the kind of all. ``dtype``: the number format of the computation."""
        assert group.WORLD is not None
        self._mesh = DeviceMesh.from_group(group.WORLD, torch.device(device).type)
        self._half = dtype if dtype != torch.float32 else None

    def divide(self, model: nn.Module, *, trained: bool = True) -> None:
        """Move the model to the device and divide it, layer by layer. All processes call this with the same weights.

        Layers are gathered in the number format of the computation, which autocast would convert their matrices to;
        what is outside the layers (embeddings, head) in its own. Gradients are sums over all processes, in float32.
        ``trained``: whether a backward pass follows each forward pass; then what is outside the layers is kept for it.
        """
        halved = MixedPrecisionPolicy(self._half, torch.float32, cast_forward_inputs=False)
        exact = MixedPrecisionPolicy(cast_forward_inputs=False)
        for layer in _layers(model):
            fully_shard(layer, mesh=self._mesh, mp_policy=halved)
        fully_shard(model, mesh=self._mesh, mp_policy=exact, reshard_after_forward=None if trained else True)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # a sum, not a mean
                module.set_force_sum_reduction_for_comms(True)  # Gloo has nothing else

    def part(self, whole: Tensor) -> Tensor:
        """Return a whole tensor as divided weights are: this process keeps only its part."""
        return distribute_tensor(whole.to(self._mesh.device_type), self._mesh, [Shard(0)], src_data_rank=None)

    def divided_state(self, state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
        """Return an optimizer's whole state with moments divided as the weights are that they belong to."""
        weights = [each for listed in optimizer.param_groups for each in listed["params"]]

        def divided(place: int, value: Any) -> Any:
            belongs = isinstance(value, Tensor) and value.dim() and value.shape == weights[place].shape
            return self.part(value) if belongs else value

        parts = {
            place: {name: divided(place, value) for name, value in values.items()}
            for place, values in state["state"].items()
        }
        return {**state, "state": parts}


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds: all of it if it is not divided."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(value: Any, *, keep: bool) -> Any:
    """Return nested dictionaries and lists with whole tensors, on the CPU. All processes call this with the same keys.

    ``keep``: otherwise divided tensors become None, for processes that only have to send their parts.
    """
    if isinstance(value, Mapping):
        return {name: gathered(each, keep=keep) for name, each in value.items()}
    if isinstance(value, list):
        return [gathered(each, keep=keep) for each in value]
    if not isinstance(value, DTensor):
        return value
    whole = value.full_tensor()
    return whole.cpu() if keep else None


def gathered_weights(model: nn.Module, *, trained: bool, keep: bool) -> dict[str, Tensor]:
    """Return a model's whole weights by name, on the CPU; weights that share memory still do. As ``gathered``.

    ``trained``: only those that are trained.
    """
    found: dict[int, Any] = {}
    named = [each for each in model.named_parameters(remove_duplicate=False) if each[1].requires_grad or not trained]
    for _, weight in named:
        if id(weight) not in found:
            found[id(weight)] = gathered(weight.detach(), keep=keep)
    return {name: found[id(weight)] for name, weight in named}


class WholeModel:
    """A plain copy of a model, without weights of its own: those of the divided model are gathered for a while."""

    def __init__(self, model: nn.Module, device: str, dtype: torch.dtype) -> None:
        """Copy ``model``, which is not divided yet, without the forward pass that TRL and accelerate put into it.

        As in ``sources.generation_weights``, linear layers get their weights in ``dtype``; not under adapters.
        """
        adapted = hasattr(model, "peft_config")  # its adapters are merged in float32
        placeholders = {id(each): _empty(each, device, each.dtype) for each in model.parameters()}
        self.model: Any = copy.deepcopy(model, dict(placeholders))
        for module in self.model.modules():
            for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
                module.__dict__.pop(name, None)
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(device)
        self._targets: dict[int, list[Tensor]] = {place: [] for place in range(len(placeholders))}
        places = {id(weight): place for place, weight in enumerate(placeholders.values())}
        for module in self.model.modules():
            for name, weight in module.named_parameters(recurse=False):
                target = weight
                linear = isinstance(module, nn.Linear) and name == "weight" and weight.dtype == torch.float32
                if linear and dtype != torch.float32 and not adapted:
                    target = _empty(weight, device, dtype)
                    module.weight = target
                known = self._targets[places[id(weight)]]
                if not any(each is target for each in known):
                    known.append(target)

    def fill(self, divided: nn.Module) -> None:
        """Gather the weights of the divided model. All processes call this."""
        with torch.no_grad():
            for targets, weight in zip(self._targets.values(), divided.parameters(), strict=True):
                # Sent in the only format that is needed, if there is only one.
                sent = weight.detach() if len(targets) > 1 else weight.detach().to(targets[0].dtype)
                whole = sent.full_tensor() if isinstance(sent, DTensor) else sent
                for target in targets:
                    target.untyped_storage().resize_(target.numel() * target.element_size())
                    target.copy_(whole)

    def empty(self) -> None:
        """Free the weights."""
        for target in self._all():
            target.untyped_storage().resize_(0)

    def _all(self) -> Iterator[Tensor]:
        return (target for targets in self._targets.values() for target in targets)


def _empty(like: Tensor, device: str, dtype: torch.dtype) -> nn.Parameter:
    """Return weights of the same shape that take no memory yet."""
    weight = nn.Parameter(torch.empty(like.shape, device=device, dtype=dtype), requires_grad=False)
    weight.untyped_storage().resize_(0)
    return weight


def _layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a transformers model, also under adapters."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]
