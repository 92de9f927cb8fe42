"""Modules that are put off: not loaded by a start, and what they always were once they are asked for."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit
PROGRAM = """
import json, sys, types
from importlib.machinery import PathFinder
from pipeline import put_off

found_by = PathFinder.find_spec.__func__
PathFinder.find_spec = classmethod(  # bitsandbytes compiles where it is imported, and few have it
    lambda cls, name, *more: None if name == "bitsandbytes" else found_by(cls, name, *more)
)
put_off.install()
put_off.install()
assert sum(type(finder).__name__ == "_Finder" for finder in sys.meta_path) == 1
import diffusers, torch
from diffusers import SanaPipeline, StableDiffusionPipeline, UNet2DConditionModel

weight = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.AdamW([weight], lr=0.5)
weight.sum().backward()
optimizer.step()
optimizer.zero_grad()
moved = weight.tolist()
is_off = {name: isinstance(sys.modules.get(name), put_off.PutOff) for name in put_off.NAMES}
late = sorted(name for name in sys.modules if name.startswith("diffusers.models.transformers."))
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
