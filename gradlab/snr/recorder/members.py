"""Resolve groups of parameters to the distinct tensors behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from gradlab.errors import GradlabError, brief
from gradlab.runtime.display import counted

OWN = "(own)"
"""The group of a model's parameters that belong to none of its children."""

Group = nn.Module | Mapping[str, Tensor] | Iterable[Tensor] | Iterable[tuple[str, Tensor]]


class Member(NamedTuple):
    """One parameter as seen from one group.

    Attributes:
        group: name of the group.
        name: dotted name inside the group.
        slot: which of the distinct tensors it is; two groups may share one.
    """

    group: str
    name: str
    slot: int

    @property
    def module(self) -> str:
        """The dotted name inside the group of the parameter's module; empty for the group's own parameters."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True, eq=False)
class Members:
    """The distinct trainable parameters and the groups that they belong to.

    Attributes:
        parameters: the distinct tensors.
        masks: for each tensor, the same-shaped mask of a masked convolution, or None.
        members: each parameter in each group.
        excluded: trainable parameters that were left out; their gradients are discarded.
    """

    parameters: tuple[Tensor, ...]
    masks: tuple[Tensor | None, ...]
    members: tuple[Member, ...]
    excluded: tuple[Tensor, ...]

    @property
    def signature(self) -> list[str]:
        """Strings that are equal for two recorders that record the same parameters."""
        return [f"{m.group}/{m.name}/{m.slot}/{tuple(self.parameters[m.slot].shape)}" for m in self.members]

    def sizes(self) -> dict[str, str]:
        """Describe each group by the number of its tensors and of their scalars."""
        scalars: dict[str, list[int]] = {}
        for member in self.members:
            scalars.setdefault(member.group, []).append(self.parameters[member.slot].numel())
        return {
            name: f"{counted(len(sizes), 'tensor')}, {counted(sum(sizes), 'scalar')}" for name, sizes in scalars.items()
        }

    def label(self, index: int) -> str:
        """Return the name of a distinct parameter, for errors."""
        first = next(m for m in self.members if m.slot == index)
        return f"{first.name!r} of group {first.group!r}"

    def entities(self) -> list[tuple[tuple[str, ...], list[int]]]:
        """Return ``(names, indices)`` of every row of a summary: groups, then modules, then parameters."""
        rows: dict[tuple[str, ...], list[int]] = {}
        for depth in (1, 2, 3):
            for m in self.members:
                rows.setdefault((m.group, m.module, m.name)[:depth], []).append(m.slot)
        return list(rows.items())


def unwrap(module: nn.Module) -> nn.Module:
    """Return the module that ``torch.compile`` wrapped, with the same parameters under their own names."""
    inner = getattr(module, "_orig_mod", module)
    return inner if isinstance(inner, nn.Module) else module


def children(model: nn.Module) -> dict[str, Group]:
    """Return a model's children that have trainable parameters, and its own parameters as ``(own)``."""
    model = unwrap(model)
    groups: dict[str, Group] = {
        name: child for name, child in model.named_children() if any(p.requires_grad for p in child.parameters())
    }
    own = {name: p for name, p in model.named_parameters(recurse=False) if p.requires_grad}
    if own:
        groups[OWN] = own
    if not groups:
        raise GradlabError(f"the model {type(model).__name__} has no trainable parameter: unfreeze some")
    return groups


def _named(label: str, group: Group) -> list[tuple[str, Tensor]]:
    """Return ``(name, parameter)`` pairs of a group, frozen parameters included."""
    if isinstance(group, nn.Module):
        return list(unwrap(group).named_parameters())
    if isinstance(group, Tensor):
        return [("0", group)]
    pairs: list[tuple[Any, Any]] = []
    if isinstance(group, Mapping):
        pairs = list(group.items())
    elif isinstance(group, Iterable) and not isinstance(group, (str, bytes)):
        for i, item in enumerate(group):
            pairs.append(item if isinstance(item, tuple) and len(item) == 2 else (str(i), item))
    else:
        raise GradlabError(f"group {label!r} is {brief(group)}: give a module, a list of parameters or a dict of them")
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise GradlabError(
                f"group {label!r} holds a {type(value).__name__} where a parameter is expected: "
                "give a module, a list of parameters or a dict name -> parameter"
            )
    return pairs


def _masks(groups: Mapping[str, Group]) -> dict[int, Tensor]:
    """Map the id of a weight to its mask, for convolutions that zero masked weights through ``.data``.

    Autograd does not see such masking, so the gradient at masked taps is not zero. Any module with a ``weight`` and a
    buffer ``mask`` of the same shape counts as one (CompressAI's and most PixelCNNs').
    """
    masks: dict[int, Tensor] = {}
    for group in groups.values():
        for module in group.modules() if isinstance(group, nn.Module) else ():
            weight = module._parameters.get("weight")
            mask = module._buffers.get("mask")
            if weight is not None and mask is not None and weight.shape == mask.shape:
                masks[id(weight)] = mask
    return masks


def resolve(groups: nn.Module | Mapping[str, Group], exclude: tuple[str, ...]) -> Members:
    """Resolve groups to their members.

    Args:
        groups: the groups, as in ``GradientRecorder``.
        exclude: last components of the names of parameters to leave out.

    Raises:
        GradlabError: if there are no groups, a group has no trainable parameters or is of an unsupported type, or a
            tensor is not a leaf.
    """
    if isinstance(groups, nn.Module):
        groups = children(groups)
    if not isinstance(groups, Mapping):
        raise GradlabError(f"groups is {brief(groups)}: give a model, or a dict name -> module or parameters")
    if not groups:
        raise GradlabError("groups is empty: give a model, or a dict name -> module or parameters")
    masks = _masks(groups)
    position: dict[int, int] = {}
    parameters: list[Tensor] = []
    members: list[Member] = []
    excluded: dict[int, Tensor] = {}
    for label, group in groups.items():
        if not isinstance(label, str):
            raise GradlabError(f"a group is named {label!r}: name groups by strings")
        before = len(members)
        seen: set[int] = set()
        for name, parameter in _named(label, group):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if not parameter.is_leaf:
                raise GradlabError(
                    f"{name!r} of group {label!r} is not a leaf tensor: give the parameter that it is computed from"
                )
            if parameter.is_complex() or parameter.numel() == 0:
                raise GradlabError(f"{name!r} of group {label!r} is complex or empty: leave it out (exclude=)")
            if name.rpartition(".")[2] in exclude:
                excluded[id(parameter)] = parameter
                continue
            if id(parameter) not in position:
                position[id(parameter)] = len(parameters)
                parameters.append(parameter)
            members.append(Member(label, name, position[id(parameter)]))
        if len(members) == before:
            raise GradlabError(
                f"group {label!r} has no trainable parameter: leave the group out, or unfreeze its parameters"
            )
    return Members(
        tuple(parameters),
        tuple(masks.get(id(p)) for p in parameters),
        tuple(members),
        tuple(p for key, p in excluded.items() if key not in position),
    )
