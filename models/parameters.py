"""Whose parameters a Pyro program trains: those of its modules, through Pyro's store or past it.

Pyro keeps parameters by name in one store for the whole process. Calling a `PyroModule` puts its parameters
there, where `pyro.infer.SVI` and `pyro.optim` find them. Two things would go wrong with modules that are
loaded, copied and used for more than training:

    a frozen parameter in the store would be unfrozen    `StoredModule` keeps it out
    a name that the store has for another module's       `StoredModule` refuses it, since Pyro would train
    parameter                                            the other one without a word
    a traced evaluation would leave parameters there     `local_parameters` keeps all of them out

No setting of Pyro is changed, so that other programs of the process are not affected.
"""

from typing import Any

import pyro
from pyro.nn import PyroModule
from pyro.params.param_store import param_with_module_name
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import nn

from avse.data.errors import InputError


class local_parameters(Messenger):
    """Inside, or in a function that it decorates, modules use their own parameters and the store gets none.

    It concerns parameters of modules alone; `pyro.param` with a value that is no `nn.Parameter` is answered
    by the store as ever.

        with local_parameters():
            loss = elbo.differentiable_loss(model, guide, power=power)
    """

    def _pyro_param(self, msg: Any) -> None:
        parameter = _of_module(msg)
        if parameter is not None:
            _answer(msg, parameter)


class _StoredParameters(Messenger):
    """Keeps frozen parameters of modules out of the store, and refuses a name that is taken."""

    def _pyro_param(self, msg: Any) -> None:
        parameter = _of_module(msg)
        if parameter is not None and not parameter.requires_grad:
            _answer(msg, parameter)

    def _pyro_post_param(self, msg: Any) -> None:
        parameter, store, name = _of_module(msg), pyro.get_param_store(), msg["name"]
        if parameter is None or msg["value"] is parameter or name not in store:
            return
        if msg["value"] is store[name] and _training():
            raise InputError(
                f"Pyro's parameter store has a parameter {name!r} of another model or guide, which would be "
                "trained in place of this one: call pyro.clear_param_store() first"
            )


def _of_module(msg: Any) -> nn.Parameter | None:
    """The parameter of a module that a message is about, or None."""
    initial = msg["args"][1] if len(msg["args"]) > 1 else None
    return initial if isinstance(initial, nn.Parameter) else None


def _training() -> bool:
    """Whether a step of `pyro.infer.SVI` collects the parameters that it will update."""
    return any(isinstance(handler, TraceMessenger) and handler.param_only for handler in _PYRO_STACK)


def _answer(msg: Any, parameter: nn.Parameter) -> None:
    """Give the parameter itself; no outer handler sees the statement."""
    msg["value"] = parameter
    msg["done"] = msg["stop"] = True


class StoredModule(PyroModule):
    """A `PyroModule` whose call puts its own trainable parameters into Pyro's store, and never a frozen one.

    Raises:
        InputError: in a step of `pyro.infer.SVI`, where the store has another module's parameter under the
            same name.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As `PyroModule.__call__`."""
        with _StoredParameters():
            return super().__call__(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """As `PyroModule.__getattr__`, without its warning for frozen parameters of a module that trains."""
        child = self.__dict__.get("_modules", {}).get(name)
        if child is None or isinstance(child, PyroModule) or pyro.settings.get("module_local_params"):
            return super().__getattr__(name)
        if self._pyro_context.active:
            module_name = self._pyro_get_fullname(name)
            for inner, parameter in child.named_parameters():
                if parameter.requires_grad:
                    pyro.param(param_with_module_name(module_name, inner), parameter)
        return child
