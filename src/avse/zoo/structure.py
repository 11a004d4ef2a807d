"""What a pair consists of, compared with what its configuration builds: a changed part would be lost."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

PLAIN = (bool, int, float, str, type(None))


def first_difference(found: nn.Module, built: nn.Module) -> str | None:
    """The first part of a module that is not as another builds it, in words; None if all are the same.

    Types of all submodules, plain attributes, the types of other attributes, and names and shapes of tensors
    are compared; values of tensors are not.

    Args:
        found: the module as it is.
        built: what its configuration builds.
    """
    expected = dict(_parts(built))
    for name, value in _parts(found):
        if name not in expected:
            return f"{name} is {_text(value)}, which its architecture does not build"
        if expected[name] != value:
            return f"{name} is {_text(value)} where its architecture builds {_text(expected[name])}"
        del expected[name]
    return next((f"{name} is missing" for name in expected), None)


def _parts(root: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in root.named_modules(remove_duplicate=False):
        yield name, type(module)
        for attribute, value in sorted(vars(module).items()):
            if not attribute.startswith("_") and attribute != "training":
                yield f"{name}.{attribute}", value if isinstance(value, PLAIN) else type(value)
    for name, tensor in root.state_dict(keep_vars=True).items():
        yield f"tensor {name}", torch.Size(tensor.shape)


def _text(value: Any) -> str:
    return f"a {value.__name__}" if isinstance(value, type) else repr(value)
