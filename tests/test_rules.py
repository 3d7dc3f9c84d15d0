"""Rules that hold for the whole repository: who imports whom, what is light, no pickle, what lies where."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("agent", "envs", "policies", "training", "ros_nodes")
MAY_IMPORT = {  # beyond itself; a module's name stands for it alone
    "agent": (),
    "envs": ("agent.spec",),
    "policies": ("agent", "envs"),
    "training": ("agent", "envs", "policies", "ros_nodes.cdr", "ros_nodes.convert"),
    "ros_nodes": ("agent", "envs", "policies"),
}
FOLDERS = {*PACKAGES, "benchmarks", "tests"}


def sources(*packages):
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path):
    """(module, line) of every import in a file, deferred ones too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno


def allowed(package, module):
    return any(module == name or module.startswith(name + ".") for name in (package, *MAY_IMPORT[package]))


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package):
    wrong = [f"{path.relative_to(ROOT)}:{line} imports {module}" for path in sources(package)
             for module, line in imported(path) if module.split(".")[0] in FOLDERS and not allowed(package, module)]
    assert not wrong


def test_envs_know_no_learning_stack():
    wrong = [f"{path}:{line}" for path in sources("envs") for module, line in imported(path)
             if module.split(".")[0] in ("torch", "transformers", "accelerate")]
    assert not wrong


def test_the_contract_needs_numpy_alone():
    assert {module.split(".")[0] for module, _ in imported(ROOT / "agent" / "spec.py")} <= {
        "__future__", "dataclasses", "typing", "numpy"}


@pytest.mark.parametrize("module, without", [
    ("agent.spec", ("torch", "transformers", "gymnasium", "mujoco", "scipy")),
    ("envs", ("torch", "transformers", "mujoco")),
    ("envs.arm", ("torch", "transformers", "mujoco")),
    ("envs.tabletop.env", ("torch", "transformers", "policies", "training")),
    ("policies.base", ("torch", "transformers", "mujoco")),
    ("training.cli", ("torch", "transformers", "gymnasium", "mujoco", "hydra")),
])
def test_light_imports(module, without):
    code = f"import sys, {module}; print(*sorted(set({without!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            yield ast.unparse(node.func), keywords, node.lineno


PICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
EVERYTHING = sources(*PACKAGES, "benchmarks", "tests")


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle_anywhere(path):
    wrong = [f"line {line}: {module}" for module, line in imported(path) if module.split(".")[0] in PICKLERS]
    for name, keywords, line in calls(path):
        unsafe_load = name == "torch.load" and keywords.get("weights_only") != "True"
        pickled_array = keywords.get("allow_pickle") == "True"
        own_format = name == "torch.save"
        wrong += [f"line {line}: {name}"] if unsafe_load or pickled_array or own_format else []
    assert not wrong


@pytest.mark.parametrize("text, found", [
    ("import pickle", True), ("from dill import dumps", True), ("import numpy", False)])
def test_the_search_for_pickle_finds_it(text, found, tmp_path):
    (tmp_path / "x.py").write_text(text)
    assert any(module.split(".")[0] in PICKLERS for module, _ in imported(tmp_path / "x.py")) == found


def tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout")
    return [Path(line) for line in listed.stdout.splitlines()]


def test_the_top_level_is_the_block_diagram():
    folders = {path.parts[0] for path in tracked() if len(path.parts) > 1 and not path.parts[0].startswith(".")}
    assert folders <= FOLDERS


def test_no_file_is_large_and_no_program_is_long():
    sizes = {path: (ROOT / path).stat().st_size for path in tracked() if (ROOT / path).is_file()}
    assert not {path: size for path, size in sizes.items() if size > 14_500_000}
    lines = {path: len((ROOT / path).read_text().splitlines()) for path in sizes if path.suffix == ".py"}
    assert not {path: n for path, n in lines.items() if n > 400}


def functions(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.end_lineno - node.lineno + 1


def test_no_function_is_longer_than_60_lines():
    found = [(path, name, n) for path in sources(*PACKAGES) for name, n in functions(path)]
    assert not [f"{path.relative_to(ROOT)}: {name} has {n}" for path, name, n in found if n > 60]


@pytest.mark.parametrize("folder", [folder for folder in PACKAGES if folder != "ros_nodes"])
def test_every_module_says_what_it_is(folder):
    silent = [str(path.relative_to(ROOT)) for path in sources(folder)
              if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent
