"""The style that can be counted: small files and functions, short ways, no family by name, nothing printed."""

import ast
import re
from pathlib import Path

import grimp
import pytest
import torch
from jaxtyping import TypeCheckError

from pipeline import rng
from pipeline.families import registry
from pipeline.objective import losses
from tests.shapes import stating_shapes

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parent.parent
SOURCES = [ROOT / "train_lora.py", *sorted((ROOT / "pipeline").rglob("*.py"))]
LOOP = ROOT / "pipeline" / "training" / "loop.py"
MAX_LINES, MAX_LOOP_LINES, MAX_POSITIONAL = 60, 90, 5  # of a function, of the loop; arguments without a name
MAX_CHAIN = 10  # modules from the entry to the step, and rooms from the entry to the ground


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_and_its_functions_can_be_read(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            is_loop = path == LOOP and node.name == "train"
            assert lines <= (MAX_LOOP_LINES if is_loop else MAX_LINES), f"{node.name}: {lines} lines"
            positional = [a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")]
            assert len(positional) <= MAX_POSITIONAL, f"{node.name}: {positional}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print"


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """What each module imports, also inside functions and for types alone."""
    graph = grimp.build_graph("pipeline")
    found = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    # The package offers Run and train to users; they are imported when first asked for, and no module asks.
    assert found["pipeline"] == {"pipeline.config", "pipeline.run.main"}
    return {**found, "pipeline": set()}


def longest_chain(imports: dict[str, set[str]], start: str, end: str | None = None) -> list[str]:
    """The longest chain of imports, to `end` where it is given. Raises AssertionError for a circle."""
    found: dict[str, list[str]] = {}

    def visit(module: str, above: tuple[str, ...]) -> list[str]:
        assert module not in above, f"a circle: {' -> '.join((*above, module))}"
        if module not in found:
            chains = [visit(below, (*above, module)) for below in sorted(imports.get(module, ()))]
            best = max((chain for chain in chains if chain), key=len, default=[])
            found[module] = [module] if module == end else [module, *best] if best or end is None else []
        return found[module]

    return visit(start, ())


def test_the_way_from_the_entry_to_the_step_is_short(imports):
    chain = ["train_lora", *longest_chain(imports, "pipeline.run.main", "pipeline.training.step")]
    assert len(chain) <= MAX_CHAIN, chain
    assert len(chain) > 3


def test_there_are_few_floors_and_no_circle(imports):
    def room(module: str) -> str:
        return ".".join(module.split(".")[:2])

    for module in imports:
        longest_chain(imports, module)  # raises for a circle
    rooms: dict[str, set[str]] = {}
    for module, below in imports.items():
        rooms.setdefault(room(module), set()).update(room(other) for other in below if room(other) != room(module))
    floors = ["train_lora", *longest_chain(rooms, "pipeline.run")]
    assert len(floors) <= MAX_CHAIN, floors


def test_an_adapters_names_are_spelled_in_one_room():
    """The names of live tensors and of files; formats of other programs are the business of adapter/files."""
    allowed = {"pipeline/adapter/names.py", *(f"pipeline/adapter/files/{name}.py" for name in ("kohya", "reader"))}
    for path in SOURCES:
        place = path.relative_to(ROOT).as_posix()
        strings = [
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value
        ]
        spelled = [text for text in strings if re.search(r"\.lora_(?:[AB]\b|magnitude)", text)]
        assert place in allowed or not spelled, f"{place}: {spelled}"


def test_a_family_is_small_and_nobody_asks_for_its_name():
    for module in registry.NAMES:
        path = ROOT / "pipeline" / "families" / f"{module}.py"
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 150
    for path in SOURCES:
        assert not re.search(r"family\.name\s*[!=]=", path.read_text(encoding="utf-8")), path


def test_no_pickle_is_read_anywhere():
    """One file travels in an installed package as torch wrote it: it is read as tensors alone."""
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        if path.name == "photographs.py":
            text = re.sub(r"torch\.load\([^\n]*weights_only=True\)", "", text)
        assert not re.search(r"torch\.load|import pickle|np\.load", text), path


USER_ERRORS = {"ConfigError", "DataError", "CheckpointError", "TrainingStopped", "PeerLost", "HubError", "UploadFailed"}
LIBRARY = [  # not what the verbs take: those docstrings are their help
    path for path in SOURCES if path.name != "__main__.py" and path.parent.name != "verbs"
]


def public_functions(path: Path) -> list[ast.FunctionDef]:
    """The functions and methods that others may call."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    return [n for body in bodies for n in body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]


def raised_by(function: ast.FunctionDef) -> set[str]:
    """The classes of errors that a function itself raises, leaving out the functions within it."""
    found, waiting = set(), list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            called = node.exc.func
            found.add(called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", ""))
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return found & USER_ERRORS


def test_docstrings_name_the_errors_that_users_meet():
    unnamed = [
        f"{path.relative_to(ROOT)}: {function.name} raises {error}"
        for path in LIBRARY
        for function in public_functions(path)
        for error in sorted(raised_by(function))
        if error not in (ast.get_docstring(function) or "")
    ]
    assert unnamed == []


def test_tensors_that_cross_a_function_have_a_shape():
    """In the annotation, or in brackets in the docstring; tensors by name are the files' and the models' own."""
    shaped = re.compile(r"(?:Float|Int|Shaped|Bool)\[Tensor, '[^']*'\]")
    bare = []
    for path in LIBRARY:
        for function in public_functions(path):
            arguments = (*function.args.args, *function.args.kwonlyargs)
            annotations = [a.annotation for a in arguments if a.annotation] + [function.returns or ast.Constant(None)]
            texts = [shaped.sub("", ast.unparse(annotation)) for annotation in annotations]
            loose = [text for text in texts if re.search(r"\bTensor\b", text) and "dict[str" not in text]
            loose = [text for text in loose if "Callable" not in text and "Mapping" not in text]
            if loose and not re.search(r"\[[^\]]*\]", ast.get_docstring(function) or ""):
                bare.append(f"{path.relative_to(ROOT)}: {function.name}: {loose}")
    assert bare == []


def test_a_shape_is_checked_wherever_one_is_stated():
    assert {"pipeline.rng", "pipeline.families.sdxl", "pipeline.objective.losses"} < set(stating_shapes())
    with pytest.raises(TypeCheckError, match="mask"):
        losses.counted(torch.ones(3), 0.0)
    assert hasattr(rng.normal, "__wrapped__")
    assert not hasattr(rng.uniform, "__wrapped__")  # states no shape: mypy knows its types


def test_one_module_writes_to_the_terminal():
    """So that a reader who has gone, or a full disk, ends no run; makers of what ships print as they like."""
    printing = re.compile(r"\bprint\(|\bsys\.(?:stdout|stderr)\.write|traceback\.print_")
    names = {p.relative_to(ROOT).as_posix() for p in SOURCES if printing.search(p.read_text(encoding="utf-8"))}
    assert {name for name in names if not name.startswith(("pipeline/starter/", "pipeline/bench/"))} == set()
