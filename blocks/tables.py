"""Tables that follow from a block's numbers: indices, masks, coordinates. They are no parameters and no buffers.

What is registered with a module is memory that others handle. Outside the state dict it holds anything after `to_empty` and
`load_state_dict`; an average of models adds up indices and infinities; a conversion rounds coordinates. A `Table` is made anew
from its numbers instead, wherever a block is made, copied or loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Table:
    """make(*arguments), a tensor of constants: made once, on the CPU, and copied to another device at its first use there.

    `make` is a function of a module and `arguments` are plain numbers, so that a table can be pickled, and written out by
    `zoo export`, as the call that makes it. In a compiled or exported net it is a constant.
    """

    make: Any
    arguments: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        with torch.inference_mode(False), torch.device("cpu"):
            self.values: Tensor = self.make(*self.arguments)
        self.placed = self.values

    def like(self, tensor: Tensor) -> Tensor:
        """The table on the device of `tensor`, and in its dtype unless it holds whole numbers or truths."""
        dtype = tensor.dtype if self.values.is_floating_point() else self.values.dtype
        if torch.compiler.is_compiling() or torch._C._is_tracing():  # the same graph at the first call and at the next
            return self.values.to(tensor.device, dtype)
        if self.placed.device == tensor.device and self.placed.dtype == dtype:
            return self.placed
        with torch.inference_mode(False):  # what is kept may meet a gradient later
            placed = self.values.to(tensor.device, dtype)
        if type(placed) is Tensor:  # and not the stand-in of a tracer
            self.placed = placed
        return placed

    def __getstate__(self) -> dict[str, Any]:
        return {"make": self.make, "arguments": self.arguments}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    def __deepcopy__(self, memo: dict[int, Any]) -> Table:
        twin = object.__new__(type(self))  # constants can be shared, and where the copy goes is its own
        twin.__dict__.update(self.__dict__)
        return twin
