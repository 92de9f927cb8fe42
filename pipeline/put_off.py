"""Modules that libraries import and a run may never use: they are loaded when something of them is first asked for.

diffusers imports torch's compiler for one decorator, scipy's distributions for schedules that nobody asked for, and
with the class of one denoiser those of all others; transformers imports tensors over many machines, with a computer
algebra system behind them: half of what a start takes. Once asked for, each is what it was.
"""

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
import types
from collections.abc import Callable, Sequence
from typing import Any

OPEN = frozenset(  # packages whose modules may be imported without the package's own code
    {
        "diffusers.models.autoencoders",
        "diffusers.models.controlnets",
        "diffusers.models.transformers",
        "diffusers.models.unets",
    }
)
LEAVES = frozenset({"torch._dynamo._trace_wrapped_higher_order_op"})  # that need nothing of their package
# Functions that are imported from modules where these are put off: they load them when they are called.
TRUTHS = {"expect_true", "guard_or_false", "guard_or_true", "statically_known_true"}  # of a plain truth: that itself
FUNCTIONS = {"scipy.optimize": {"linear_sum_assignment"}, "torch.fx.experimental.symbolic_shapes": TRUTHS}
# Errors that are imported so, to be caught, and their base: a class of that name becomes the base of the real one.
EXCEPTIONS = {"torch.fx.experimental.symbolic_shapes": {"GuardOnDataDependentSymNode": RuntimeError}}
NAMES = OPEN | {"scipy.integrate", "scipy.stats", "torch._dynamo"} | FUNCTIONS.keys()
HIDDEN = ("bitsandbytes",)  # not installed, as far as others see: PEFT imports it wherever it is, and it compiles
_loading = threading.RLock()
_bases: dict[tuple[str, str], type[BaseException]] = {}  # by module and name: what stands for an error


class PutOff(types.ModuleType):
    """A module whose code has not run. What the import system wants to know of it is there already."""

    def __getattr__(self, name: str) -> Any:
        if name in FUNCTIONS.get(self.__name__, ()):
            return _function(self, name)
        if name in (errors := EXCEPTIONS.get(self.__name__, {})):
            return _bases.setdefault((self.__name__, name), type(name, (errors[name],), {"__slots__": ()}))
        if (name.startswith("__") and name != "__all__") or not load(self):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self, name)

    def __dir__(self) -> list[str]:
        load(self)
        return list(vars(self))


def _function(module: PutOff, name: str) -> Callable[..., Any]:
    """What does what the module's function does, and loads it for that, but where the answer is known."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if name in TRUTHS and len(args) == 1 and isinstance(args[0], bool):
            return args[0]
        load(module)
        return vars(module)[name](*args, **kwargs)

    return call


class Compiler(PutOff):
    """torch._dynamo, as long as nothing is compiled.

    Its marks on functions and classes say how to compile them: they are kept, and made when it is loaded.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.marked: list[tuple[str, Any]] = []
        self.eval_frame = types.SimpleNamespace(OptimizedModule=type("OptimizedModule", (), {}))  # there is none yet

    def allow_in_graph(self, target: Any) -> Any:
        """A class or a function that is not to be traced into."""
        return _mark(self, "allow_in_graph", target)

    def assume_constant_result(self, target: Any) -> Any:
        """A function that gives the same each time."""
        return _mark(self, "assume_constant_result", target)

    def disable(self, fn: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
        """A function that is never compiled: as long as nothing is, itself."""
        if fn is None:
            return self.disable
        if not isinstance(fn, types.FunctionType | types.MethodType):  # a model, say, gets another class
            load(self)
            return sys.modules[self.__name__].disable(fn)
        return _never_compiled(self.__name__, fn)

    def graph_break(self, *_: Any, **__: Any) -> None:
        """Where compiled code ends: nothing to do outside of it."""


def _mark(compiler: types.ModuleType, kind: str, target: Any) -> Any:
    """Keep a mark, or make it where the compiler is loaded by now."""
    if not isinstance(compiler, Compiler):
        return getattr(compiler, kind)(target)
    compiler.marked.append((kind, target))
    return target


def _never_compiled(compiler: str, fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function as it is, until there is a compiler to be told of it."""
    real: Callable[..., Any] | None = None

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal real
        if real is None and not isinstance(sys.modules[compiler], PutOff):
            real = sys.modules[compiler].disable(fn)
        return (real or fn)(*args, **kwargs)

    return call


class _Loader(importlib.abc.Loader):
    """Makes the module and does not run it."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return Compiler(spec.name) if spec.name == "torch._dynamo" else PutOff(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Later."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)  # where a file lies, and what else is asked of a loader


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        parent = fullname.rpartition(".")[0]
        if parent in NAMES - OPEN and fullname not in LEAVES:
            load(sys.modules[parent])
        if fullname not in NAMES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def install() -> None:
    """Put these modules off in this process, those that are not imported yet; a second call does nothing."""
    for name in HIDDEN:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # what the import system takes for not installed
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def is_installed(name: str) -> bool:
    """Whether a package is there, hidden or not."""
    if sys.modules.get(name, sys) is not None:
        return importlib.util.find_spec(name) is not None
    return importlib.machinery.PathFinder.find_spec(name) is not None


def show(name: str) -> None:
    """Let a hidden package be imported from now on."""
    if sys.modules.get(name, sys) is None:
        del sys.modules[name]


def load(module: types.ModuleType) -> bool:
    """Run the code of a module that was put off; other threads wait for it.

    False where this thread is running it already, and it asks for what it has not made yet.
    """
    with _loading:
        if not isinstance(module, PutOff):
            return True
        if module.__spec__ is None or not isinstance(module.__spec__.loader, _Loader):
            return False
        put_off, marked = module.__spec__.loader, vars(module).pop("marked", [])
        told = vars(module).pop("eval_frame", None)
        module.__spec__.loader = module.__loader__ = put_off.inner
        try:
            module.__loader__.exec_module(module)  # type: ignore[union-attr]  # set a line above
        except BaseException:  # as it was: whoever asks again hears of it again
            module.__spec__.loader = module.__loader__ = put_off
            if told is not None:
                vars(module).update(marked=marked, eval_frame=told)
            raise
        module.__class__ = types.ModuleType  # type: ignore[assignment]  # an ordinary module from now on
        for kind, target in marked:
            getattr(module, kind)(target)
        for name in EXCEPTIONS.get(module.__name__, ()):
            if base := _bases.get((module.__name__, name)):
                getattr(module, name).__bases__ = (base,)
        return True
