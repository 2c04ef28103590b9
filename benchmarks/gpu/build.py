"""llama.cpp out of its sources: for CUDA, HIP, or processors alone.

A build that is broken off goes on from there the next time; one that is done is found in its folder again, of which
every kind of device has its own.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peers.engine import EngineFailed

PROGRAMS = ("llama-bench", "llama-batched-bench")
OFF = ("TESTS", "EXAMPLES", "SERVER", "APP")  # what else could be built
# Where toolkits and drivers have their libraries. cuBLAS may be a package of pip's instead.
LIBRARY_FOLDERS = (
    *(
        "/usr/local/cuda/lib64",
        "/usr/local/nvidia/lib64",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib64",
        "/usr/lib/wsl/lib",
    ),
    *([f"{os.environ['CUDA_HOME']}/lib64"] if "CUDA_HOME" in os.environ else []),
)
CUBLAS = ("lib/libcublas.so.*", "lib/libcublasLt.so.*", "include/cublas*.h")


class Build:
    """A build in the background. Call `close` when it is no longer wanted."""

    def __init__(self, source: Path, folder: Path, device: dict[str, Any]) -> None:
        """Begin it, or find it done.

        Args:
            source: llama.cpp's folder, an archive, or either of a package that holds it.
            folder: for sources and, by kinds of devices, results; kept.
            device: what `rowspan.bench.machine.card_ceilings` says of the device.

        Raises:
            EngineFailed: there are no sources there.
        """
        of_kind = folder / kind_of(device)
        of_kind.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._log = of_kind / "build.log"
        out = of_kind / "build"
        self.binaries = out / "bin"
        finished = of_kind / "finished"
        if finished.exists():
            return
        sources = find_sources(source, folder)
        configure = ["cmake", "-S", str(sources), "-B", str(out), *options(device, source, folder)]
        if shutil.which("ninja"):
            configure += ["-G", "Ninja"]
        build = ["cmake", "--build", str(out), "--parallel", str(len(os.sched_getaffinity(0))), "--target", *PROGRAMS]
        steps = [shlex.join(configure), shlex.join(build), shlex.join(["touch", str(finished)])]
        if device.get("hip"):
            steps.insert(0, 'export HIPCXX="$(hipconfig -l)/clang" HIP_PATH="$(hipconfig -R)"')
        with self._log.open("wb") as log:
            # Behind whatever else this program does in the meantime.
            command = ["nice", "-n", "10", "sh", "-c", " && ".join(steps)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self, seconds: float) -> None:
        """Until it is done.

        Raises:
            EngineFailed: it failed, or takes longer.
        """
        if self._process is None:
            return
        try:
            code = self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            self.close()
            raise EngineFailed(f"not built in time ({self.progress}); the next call goes on from there") from None
        if code:
            raise EngineFailed(f"the build failed: {self._log.read_text(errors='replace')[-800:]}")

    @property
    def progress(self) -> str:
        """Such as "[120/289]"."""
        steps = re.findall(r"^\[ *[\d/%]+\]", self._log.read_text(errors="replace"), re.MULTILINE)
        return steps[-1] if steps else "being configured"

    def close(self) -> None:
        """End it, and all that it has started."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def find_sources(source: Path, folder: Path) -> Path:
    """llama.cpp's own folder; an archive is unpacked. Raises EngineFailed: there is none."""
    if not source.exists():
        raise EngineFailed(f"{source} is not there")
    if source.is_file():
        unpacked = folder / "source"
        if not unpacked.exists():
            unfinished = folder / "source.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            with tarfile.open(source) as archive:
                archive.extractall(unfinished, filter="data")
            unfinished.rename(unpacked)
        source = unpacked
    for cmake in sorted(source.rglob("CMakeLists.txt"), key=lambda path: len(path.parts)):
        if (cmake.parent / "ggml" / "CMakeLists.txt").exists() and (cmake.parent / "tools" / "llama-bench").exists():
            return cmake.parent.resolve()
    raise EngineFailed(f"{source} holds no sources of llama.cpp with tools/llama-bench")


def kind_of(device: dict[str, Any]) -> str:
    """What programs are built for, as the name of a folder: "cpu", or such as "hip-gfx1100"."""
    for api in ("hip", "cuda"):
        if device.get(api):
            return f"{api}-" + re.sub(r"[^\w.-]+", "-", device["architecture"].split(":")[0])
    return "cpu"


def options(device: dict[str, Any], source: Path, folder: Path) -> Iterator[str]:
    """For cmake."""
    yield "-DCMAKE_BUILD_TYPE=Release"
    # The processor only looks up embeddings here, and gcc 12's AMX code crashes.
    yield "-DGGML_NATIVE=OFF"
    yield "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON"  # the folder may be moved
    yield "-DLLAMA_OPENSSL=OFF"
    yield from (f"-DLLAMA_BUILD_{name}=OFF" for name in OFF)
    # Else it takes the commit of whatever repository lies around it.
    yield "-DLLAMA_BUILD_COMMIT=" + re.sub(r"[^\w.-]", "-", re.sub(r"\.(tar\.\w+|tgz)$", "", source.name))
    yield "-DLLAMA_BUILD_NUMBER=0"
    if device.get("hip"):
        yield "-DGGML_HIP=ON"
        yield f"-DGPU_TARGETS={device['architecture'].split(':')[0]}"
    elif device.get("cuda"):
        yield "-DGGML_CUDA=ON"
        yield "-DCMAKE_CUDA_ARCHITECTURES=native"
        yield from loose_libraries(folder / "libraries")


def loose_libraries(links: Path) -> Iterator[str]:
    """Options for what cmake does not find by itself; such files are linked to in one folder."""
    links.mkdir(exist_ok=True)
    if not any(Path(at, "libcublas.so").exists() for at in LIBRARY_FOLDERS):
        places = [Path(at, "nvidia", part) for at in sys.path for part in ("cu13", "cublas")]
        for file in [found for at in places for name in CUBLAS for found in at.glob(name)]:
            _link(links / file.name, file)
            _link(links / re.sub(r"\.so\..*", ".so", file.name), file)
        for library in links.glob("libcublas*.so"):
            yield f"-DCUDA_{library.stem.removeprefix('lib')}_LIBRARY={library}"
        yield from (f"-DCMAKE_{language}_FLAGS=-I{links}" for language in ("CUDA", "CXX"))
    if not any(Path(at, "stubs", "libcuda.so").exists() for at in LIBRARY_FOLDERS):
        driver = next((path for at in LIBRARY_FOLDERS if (path := Path(at, "libcuda.so.1")).exists()), None)
        if driver is None:
            yield "-DGGML_CUDA_NO_VMM=ON"  # its pool of memory is then made of plain allocations
        else:
            _link(links / "libcuda.so", driver)
            yield f"-DCUDA_cuda_driver_LIBRARY={links / 'libcuda.so'}"


def _link(at: Path, target: Path) -> None:
    if not at.exists():
        at.unlink(missing_ok=True)
        at.symlink_to(target.resolve())
