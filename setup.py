"""Builds the C++ module `rerank_engine._native` with CMake and lists the packages. Everything else is in pyproject.toml."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Runs CMake once for the one extension; further CMake arguments come from RERANK_CMAKE_ARGS (build time only)."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        # cmake and ninja from pip live beside this interpreter, which need not be on the PATH.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        ninja = shutil.which("ninja", path=path)
        settings = [
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={Path(self.get_ext_fullpath(ext.name)).parent.resolve()}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            "-DCMAKE_BUILD_TYPE=Release",
            *(["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []),
            *os.environ.get("RERANK_CMAKE_ARGS", "").split(),
        ]
        # One build folder per Python, kept, so that a second build compiles only what changed. It is begun anew when the settings differ:
        # an isolated build (`pip install .`) brings a cmake and a ninja of its own, which are gone afterwards.
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        stamp, wanted = build / "settings.txt", "\n".join([str(ROOT), *settings])
        if not stamp.is_file() or stamp.read_text() != wanted:
            shutil.rmtree(build, ignore_errors=True)
            build.mkdir(parents=True)
        env = {**os.environ, "PATH": path}
        subprocess.run(["cmake", str(ROOT), *settings], cwd=build, env=env, check=True)
        stamp.write_text(wanted)
        subprocess.run(["cmake", "--build", ".", "--parallel"], cwd=build, env=env, check=True)


setup(
    # Named one by one: discovery would ship tests and benchmarks. kernels/ has no __init__.py on purpose (see kernels/README.md).
    packages=[*find_packages(include=["rerank_engine", "rerank_engine.*"]), "rerank_kernels"],
    package_dir={"rerank_kernels": "kernels"},
    package_data={
        "rerank_engine": ["py.typed", "*.pyi"],
        "rerank_engine.demo": ["data/*", "data/qrels/*"],
        "rerank_engine.planning": ["data/*"],
        "rerank_engine.serve": ["page/*"],
        "rerank_kernels": ["README.md"],
    },
    include_package_data=False,  # package_data says it all
    ext_modules=[Extension("rerank_engine._native", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    zip_safe=False,
)
