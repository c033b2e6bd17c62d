"""The rules of the layout that a reflex would break: one stem per op, small files, a light import, a clean `kernels/`."""

from __future__ import annotations

import ast
import json
import site
import subprocess
import sys
from pathlib import Path

import pytest

from rerank_engine.backends import OPS

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("rerank_engine", "kernels", "benchmarks", "tests")
PYTHON = [ROOT / "setup.py", *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
NATIVE = sorted((ROOT / "csrc").glob("*")) + sorted((ROOT / "tests" / "native").glob("*.cpp"))


def imports(path: Path) -> set[str]:
    """Top-level names of every absolute import in a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def run_python(code: str, cwd: Path) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("op", OPS)
def test_an_op_has_one_stem_everywhere(op: str) -> None:
    assert (ROOT / "rerank_engine" / "ops" / f"{op}.py").is_file()
    assert (ROOT / "tests" / "ops" / f"test_{op}.py").is_file()
    assert (ROOT / "benchmarks" / f"bench_{op}.py").is_file()
    if "cpp" in OPS[op]:
        assert (ROOT / "csrc" / f"{op}.hpp").is_file()
        assert (ROOT / "csrc" / f"{op}.cpp").is_file()
    if "triton" in OPS[op]:
        assert (ROOT / "kernels" / f"{op}.py").is_file()


@pytest.mark.parametrize("op", OPS)
def test_every_op_ends_with_a_reference_and_every_table_entry_exists(op: str) -> None:
    assert list(OPS[op])[-1] == "reference"
    for target in OPS[op].values():
        module, _, function = target.partition(":")
        names = {
            node.name
            for node in ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text()).body
            if isinstance(node, ast.FunctionDef)
        }
        assert function in names


def test_no_kernel_without_an_op() -> None:
    shared, parts_of_a_forward_pass = {"codes", "common", "config", "graph", "launch"}, {"epilogue", "varlen_attention"}
    assert {p.stem for p in (ROOT / "kernels").glob("*.py")} - shared - parts_of_a_forward_pass <= set(OPS)


@pytest.mark.parametrize("path", [*PYTHON, *NATIVE], ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_small(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= (60 if path.name == "__init__.py" else 500)
    if path.name == "setup.py":
        assert lines < 80


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_stay_small(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            code = (node.end_lineno or 0) - node.lineno - len((ast.get_docstring(node) or "").splitlines())
            assert code <= 55, f"{node.name} has {code} lines"  # about 50


def test_kernels_and_csrc_import_nothing_of_ours() -> None:
    for path in (ROOT / "kernels").glob("*.py"):
        assert not imports(path) & {"rerank_engine", "rerank_kernels"}
    for path in (ROOT / "csrc").iterdir():
        assert path.name.startswith("bindings") or not {"pybind11", "Python.h", "torch"} & set(path.read_text().replace("/", " ").split())
        assert path.name.startswith("bindings") or "pybind11" not in path.read_text()


def test_kernels_is_not_a_package_of_that_name() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()
    code = "import importlib.util as u; spec = u.find_spec('kernels'); print(spec.origin if spec else None)"
    assert not run_python(code, ROOT).startswith(str(ROOT))  # a namespace candidate (None) or PyPI's package, never a package of ours
    assert "TARGETS" in run_python("import rerank_kernels.config as c; print(dir(c))", ROOT)


def test_one_imports_from_the_folder_above_the_checkout_too() -> None:
    """There, the checkout itself is a candidate for the package's name when it is called rerank_engine."""
    if not (Path(site.getsitepackages()[0]) / "rerank_engine_checkout.pth").is_file():
        pytest.skip("not an environment that the Makefile has set up")
    assert "rerank" in run_python("import rerank_engine; print(dir(rerank_engine))", ROOT.parent)


def test_import_brings_numpy_alone_and_is_quick() -> None:
    code = """
import json, sys, time
before = set(sys.modules)
start = time.process_time()
import rerank_engine
spent = time.process_time() - start
for name in rerank_engine.__all__:
    getattr(rerank_engine, name)
top = {name.split('.')[0] for name in set(sys.modules) - before}
print(json.dumps([spent, sorted(top - sys.stdlib_module_names - {'rerank_engine', 'numpy'})]))
"""
    runs = [json.loads(run_python(code, Path("/"))) for _ in range(5)]
    assert [name for name in runs[0][1] if not name.startswith(("__editable__", "_cython", "mkl"))] == []
    assert min(spent for spent, _ in runs) < 0.3  # seconds of processor time, the best of five


def test_nothing_in_the_package_runs_code_from_files() -> None:
    for path in (ROOT / "rerank_engine").rglob("*.py"):
        assert not imports(path) & {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
        text = path.read_text()
        for word in ("eval(", "exec(", "allow_pickle=True", "trust_remote_code=True", "torch.load("):
            assert word not in text.replace("literal_eval(", ""), f"{path.name}: {word}"


def test_only_the_command_line_prints() -> None:
    for path in (ROOT / "rerank_engine").rglob("*.py"):
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print"]
        assert not calls or path.name == "cli.py"


def test_no_march_native_and_no_path_of_a_machine() -> None:
    texts = [
        (p, p.read_text())
        for p in [*PYTHON, *NATIVE, ROOT / "CMakeLists.txt", ROOT / "Makefile", *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    ]
    for path, text in texts:
        if path.name != "test_layout.py":
            assert "-march=native" not in text.replace("never -march=native", "")
            assert not any(folder in text for folder in ("/root/", "/home/", "/work/", "/tmp/"))
