"""Modules that are put off: not loaded by a start, and what they always were once they are asked for."""

import importlib.util
import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit
PROGRAM = """
import json, sys, types
from pipeline import put_off

put_off.install()
put_off.install()
assert sum(type(finder).__name__ == "_Finder" for finder in sys.meta_path) == 1
import diffusers, peft, torch
from diffusers import SanaPipeline, StableDiffusionPipeline, UNet2DConditionModel

weight = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.AdamW([weight], lr=0.5)
weight.sum().backward()
optimizer.step()
optimizer.zero_grad()
moved = weight.tolist()
is_off = {name: isinstance(sys.modules.get(name), put_off.PutOff) for name in put_off.NAMES}
late = sorted(name for name in sys.modules if name.startswith("diffusers.models.transformers."))
early = [name for name in ("bitsandbytes", "sympy") if sys.modules.get(name) is not None]
shapes = sys.modules["torch.fx.experimental.symbolic_shapes"]
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode as Unknown, guard_or_false
from scipy.optimize import linear_sum_assignment
truths = [guard_or_false(2 > 1), guard_or_false(2 < 1), isinstance(shapes, put_off.PutOff)]
torch._check(True)
truths.append(isinstance(shapes, put_off.PutOff))
compiler = sys.modules["torch._dynamo"]
marked = list(compiler.marked)
assert compiler.eval_frame.OptimizedModule is not None

calls = []
def backend(graph, inputs):
    calls.append(len(inputs))
    return graph.forward

compiled = torch.compile(lambda x: x * 2 + 1, backend=backend)  # which loads it
assert compiled(torch.ones(3)).tolist() == [3.0] * 3
from torch._dynamo.trace_rules import is_callable_allowed
allowed = [is_callable_allowed(target) for kind, target in marked if kind == "allow_in_graph"]
optimizer.zero_grad()
optimizer.step()

@compiler.allow_in_graph
def later(x):
    return x

answers = [guard_or_false(2 > 1), guard_or_false(2 < 1), linear_sum_assignment([[1, 0], [0, 1]])[1].tolist()]
answers.append(type(shapes) is types.ModuleType)
try:
    raise shapes.GuardOnDataDependentSymNode(None, "unknown")
except Unknown:
    answers.append("caught")
is_there = put_off.is_installed("bitsandbytes"), put_off.is_installed("torch"), put_off.is_installed("no_such_package")
put_off.show("bitsandbytes")
put_off.show("torch")
from importlib.util import find_spec
shown = find_spec("bitsandbytes") is not None

import threading
import scipy.stats, diffusers.models.transformers as others
names, failed = [], []
def ask():
    try:
        names.append(scipy.stats.norm.name)
    except AttributeError as error:
        failed.append(str(error))
threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
@torch._disable_dynamo
def documented(x):
    "Says something."
from scipy.integrate import *
try:
    others.NoSuchModel
except AttributeError as error:
    said = str(error)
print(json.dumps({
    "early": early, "truths": truths, "answers": answers, "is_there": is_there, "shown": shown,
    "moved": moved, "is_off": is_off, "late": late, "calls": calls, "allowed": allowed, "said": said,
    "asked": [names, failed], "said_of": documented.__doc__, "star": callable(quad), "dir": "norm" in dir(scipy.stats),
    "is_real": type(compiler) is types.ModuleType, "normal": scipy.stats.norm.cdf(0.0),
    "other": others.FluxTransformer2DModel.__name__,
}))
"""


def test_they_are_left_until_they_are_asked_for_and_then_whole():
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert {name for name, is_off in found["is_off"].items() if not is_off} <= {
        "diffusers.models.controlnets",
        "scipy.integrate",
    }
    assert found["early"] == []
    assert found["truths"] == [True, False, True, True]
    assert found["answers"] == [True, False, [1, 0], True, "caught"]
    assert found["is_there"] == [found["shown"], True, False]
    assert found["shown"] == (importlib.util.find_spec("bitsandbytes") is not None)
    assert 0 < len(found["late"]) < 10  # of fifty
    assert found["moved"] == pytest.approx([0.495, 0.495], abs=0.01)
    assert found["is_real"]
    assert found["calls"] == [1]
    assert len(found["allowed"]) > 3
    assert all(found["allowed"])
    assert "NoSuchModel" in found["said"]
    assert found["normal"] == 0.5
    assert found["asked"] == [["norm"] * 8, []]
    assert (found["said_of"], found["star"], found["dir"]) == ("Says something.", True, True)
    assert found["other"] == "FluxTransformer2DModel"
