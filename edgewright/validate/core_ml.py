"""A model in Core ML itself, by coremltools: on a Mac, in a child process only, since coremltools is heavy.

A package is compiled once, as Xcode or a device does it with what it downloads; what is loaded and timed is the
compiled model. API: coremltools 9, `models.utils.compile_model`, `models.CompiledMLModel`.
"""

import platform
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.child import run_in_child
from edgewright.errors import ConversionError, EdgewrightError
from edgewright.export import mlpackage
from edgewright.export.mil_program import Pixels, pixels_of
from edgewright.export.pixels import as_images, as_scores
from edgewright.validate.core_ml_units import ComputeUnits
from edgewright_runtime.bench.spec import single_rows
from edgewright_runtime.bundle.manifest import TensorSpec
from edgewright_runtime.errors import BackendUnavailableError, InputRejectedError, IntegrityError

__all__ = ["NAME", "CoreMLModel", "CoreMLPackage", "compile_package"]

NAME = "Core ML"
# The oldest macOS that reads a specification version (coremltools 9: _SPECIFICATION_VERSION_IOS_16 and up; iOS 16 and
# macOS 13, 17 and 14, 18 and 15, 26 and 26 came out together).
_MACOS = {7: 13, 8: 14, 9: 15, 10: 26}


def compile_package(path: Path, compiled: Path) -> None:
    """Let Core ML compile a saved package to the folder ``compiled`` (``.mlmodelc``).

    Raises:
        ConversionError: Core ML refuses the package.
    """
    tools = _coremltools()
    try:
        tools.models.utils.compile_model(str(path), str(compiled))
    except Exception as e:  # what the framework's binding raises is not told by type
        raise ConversionError(_refused(path, _version(tools), e)) from e


class CoreMLPackage:
    """A saved package: what its description says, and the model that Core ML compiles of it into ``scratch``.

    It is compiled in a process of its own: what the compiler takes would be counted as the model's memory otherwise.

    Raises:
        BackendUnavailableError: coremltools is not installed, or this macOS is too old for the package.
        IntegrityError: not a package, or Core ML refuses it.
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        self.path = path
        self._tools = _coremltools()
        self.version = _version(self._tools)
        self.compiled = scratch / f"{path.stem}.mlmodelc"
        try:
            specification = mlpackage.load(path)
            self.pixels: Mapping[str, Pixels] = pixels_of(specification.description)
        except EdgewrightError as e:
            # The bench that loads this names errors of the device runtime, not of the pipeline.
            raise IntegrityError(_refused(path, self.version, e)) from e
        _refuse_newer(path, specification.specificationVersion)
        self.description = specification.description
        self.inputs = tuple(_spec(feature) for feature in self.description.input)
        self.outputs = tuple(_spec(feature) for feature in self.description.output)
        try:
            job = partial(compile_package, path, self.compiled)
            run_in_child(job, what=f"compiling {path.name}", writes=[self.compiled.parent])
        except EdgewrightError as e:
            raise IntegrityError(str(e)) from e

    def load(self, units: ComputeUnits) -> "CoreMLModel":
        """The compiled model, loaded anew.

        Raises:
            IntegrityError: Core ML refuses it.
        """
        try:
            loaded = self._tools.models.CompiledMLModel(
                str(self.compiled), compute_units=self._tools.ComputeUnit[units]
            )
        except Exception as e:  # likewise
            raise IntegrityError(_refused(self.path, self.version, e)) from e
        return CoreMLModel(self, loaded)

    def plan(self, units: ComputeUnits) -> Any:
        """Core ML's `MLComputePlan` of the compiled model; given a package instead, the call would end the process.

        Raises:
            BackendUnavailableError: Core ML makes none.
        """
        from coremltools.models.compute_plan import MLComputePlan

        try:
            return MLComputePlan.load_from_path(str(self.compiled), compute_units=self._tools.ComputeUnit[units])
        except Exception as e:  # likewise; older coremltools or macOS lack a part of it
            raise BackendUnavailableError(
                f"{NAME} {self.version} makes no compute plan, which needs macOS 14.4: {_first_line(e)}"
            ) from e


class CoreMLModel:
    """A loaded model with the methods of `edgewright_runtime.backends.Backend`, whose feeds are those of `feeds`."""

    name = NAME

    def __init__(self, package: CoreMLPackage, loaded: Any) -> None:
        self.package = package
        self.version = package.version
        self.inputs, self.outputs = package.inputs, package.outputs
        self._loaded = loaded

    def feeds(
        self, rows: Mapping[str, np.ndarray], names: Sequence[str] = (), limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Up to ``limit`` rows (N, ...), each as `predict` takes it: an image where the input is typed as one.

        ``names`` are the rows' own, in the order of the model's inputs.

        Raises:
            InputRejectedError: an input that no array has.
        """
        given = dict(zip((spec.name for spec in self.inputs), names, strict=False)) if names else {}
        own = {spec.name: given.get(spec.name, spec.name) for spec in self.inputs}
        if missing := sorted(set(own.values()) - set(rows)):
            raise InputRejectedError(f"the model's inputs {missing} are not among the rows' arrays {sorted(rows)}")
        count = min(len(rows[name]) for name in own.values())
        held = {name: rows[theirs] for name, theirs in own.items()}
        return [
            as_images(self.package.pixels, feed) for feed in single_rows(self, held, count if limit is None else limit)
        ]

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """One inference; Core ML itself refuses what does not fit."""
        return self.infer(feeds)

    def infer(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """One inference: what `predict` gives, by output name."""
        try:
            answer: dict[str, Any] = self._loaded.predict(feeds)
        except Exception as e:  # what the framework's binding raises is not told by type
            raise InputRejectedError(f"{NAME} {self.version}: the inference failed: {_first_line(e)}") from e
        return answer

    def scores(self, answer: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """An answer as the source model's outputs (1, ...): scores by label become a tensor."""
        return as_scores(self.package.description, answer)


def _coremltools() -> Any:
    from edgewright.export.coreml import coremltools_alone

    try:
        return coremltools_alone()
    except ImportError as e:
        raise BackendUnavailableError("coremltools is not installed: pip install 'edgewright[coreml]'") from e


def _version(tools: Any) -> str:
    return f"{platform.mac_ver()[0] or 'of an unknown macOS'} (coremltools {tools.__version__})"


def _refused(path: Path, version: str, error: Exception) -> str:
    return f"{path.name}: {NAME} {version} cannot load it: {_first_line(error)}"


def _refuse_newer(path: Path, version: int) -> None:
    """Raise `BackendUnavailableError` where this macOS is too old for the package; unknown versions are tried."""
    here, needed = platform.mac_ver()[0], _MACOS.get(version)
    # Only a Mac has a version; elsewhere there is nothing to compare.
    if here and needed is not None and int(here.partition(".")[0]) < needed:
        raise BackendUnavailableError(
            f"{path.name} needs macOS {needed} (specification version {version}), here is {here}"
        )


def _spec(feature: Any) -> TensorSpec:
    """One input or output; an image as the tensor (1, channels, height, width) that the source model took."""
    kind = feature.type.WhichOneof("Type")
    if kind == "multiArrayType":
        array = feature.type.multiArrayType
        stored = array.ArrayDataType.Name(array.dataType).lower()
        # Core ML says `double`, numpy and the manifests `float64`.
        return TensorSpec(feature.name, tuple(array.shape), {"double": "float64"}.get(stored, stored))
    if kind == "imageType":
        image = feature.type.imageType
        channels = 1 if image.ColorSpace.Name(image.colorSpace).startswith("GRAYSCALE") else 3
        return TensorSpec(feature.name, (1, channels, image.height, image.width), "float32")
    return TensorSpec(feature.name, (1,), kind.removesuffix("Type"))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
