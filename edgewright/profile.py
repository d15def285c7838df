"""Device profiles and budgets: what a device is, and what a model may cost there. No ML framework is imported here."""

from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from edgewright.errors import ProfileError
from edgewright.plugins import plugin_code, plugin_names
from edgewright.project import project_folder
from edgewright.value import Value
from edgewright.variables import variable
from edgewright.yaml_values import read_value
from edgewright_runtime.bundle.manifest import Budget, Kernels
from edgewright_runtime.bundle.monitoring import STEPS, StepDown

__all__ = [
    "EXPORTER_PLUGINS",
    "TARGET_PLUGINS",
    "AdbConnection",
    "Budget",
    "DeviceProfile",
    "ExportOptions",
    "InstructionSet",
    "Kernels",
    "Platform",
    "SshConnection",
    "StepDownPolicy",
    "Timing",
    "find_shipped",
    "load_device",
    "profiles_folder",
    "shipped_names",
    "weight_bits",
]


class Platform(StrEnum):
    """Where a model goes; each has one native format."""

    IOS = "ios"
    ANDROID = "android"
    EDGE_DEVICE = "edge_device"


class Timing(Value):
    """How long latency is measured at least; a model of seconds is stopped after a minute, which the report says."""

    min_runs: int = Field(60, gt=0, description="Inferences of each model, at least.")
    min_seconds: float = Field(1.0, gt=0, description="Seconds of inferences, at least.")


class StepDownPolicy(Value):
    """When a device should do less, and how: the device runtime steps down beyond these; None sets no limit."""

    max_temperature_c: float | None = Field(None, gt=0, description="Hottest sensor, degrees Celsius.")
    min_battery_percent: float | None = Field(None, ge=0, le=100, description="Battery below which to do less.")
    steps: tuple[StepDown, ...] = Field(STEPS, description="What is done then, one after another.")


class SshConnection(Value):
    """How a board is reached. Host keys are checked: an unknown host is refused."""

    # They stand on ssh's command line, where a leading dash would be an option.
    host: str = Field(pattern=r"^[A-Za-z0-9][\w.:-]*$")
    port: int = Field(22, gt=0, lt=65536)
    user: str = Field(pattern=r"^[A-Za-z0-9_][\w.-]*$")
    key: Path | None = Field(None, description="Private key; left out, ssh's own choice.")
    known_hosts: Path | None = Field(None, description="Host keys to trust; left out, ssh's own file.")
    folder: str = Field("edgewright", pattern=r"^[\w./-]+$", description="Working folder there; all files stay in it.")
    python: str = Field("python3", pattern=r"^[\w./-]+$", description="Interpreter that has numpy and the runtime.")


class AdbConnection(Value):
    """How an Android phone is reached, and what measures there: LiteRT's benchmark program, or a Python."""

    benchmark_model: Path | None = Field(None, description="LiteRT's benchmark_model for the phone's instruction set.")
    python: str | None = Field(
        None, pattern=r"^[\w./-]+$", description="Interpreter on the phone that has numpy and LiteRT, such as Termux's."
    )
    serial: str | None = Field(None, description="Which phone, where several are connected.")
    folder: str = Field("/data/local/tmp/edgewright", pattern=r"^[\w./-]+$", description="Working folder there.")

    @model_validator(mode="after")
    def _one_way_to_measure(self) -> "AdbConnection":
        if (self.benchmark_model is None) == (self.python is None):
            raise ValueError("adb needs either benchmark_model or python")
        return self


Extension = Literal["neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2", "sme", "avx2", "avx_vnni", "avx512_vnni"]


_TARGETS = ("local", "emulated_device", "ssh", "adb", "core_ml")
TARGET_PLUGINS = "edgewright.targets"
EXPORTER_PLUGINS = "edgewright.exporters"
# The whole device that is emulated is a 64-bit Arm one; the other cores run single programs.
_WHOLE_DEVICE_CORES = ("cortex-a53", "cortex-a72", "cortex-a76")


InstructionSet = Literal["arm64", "armv7", "x86_64"]
# x86 without them adds pairs of products in 16 bits, which saturate: see `edgewright.export.pair_sums`.
_DOT_PRODUCTS: set[Extension] = {"dotprod", "i8mm", "avx_vnni", "avx512_vnni"}


class ExportOptions(Value):
    """How a model's file is shaped for the app that loads it; each default suits any app."""

    integer_tensors: bool = Field(
        False, description="Android, int8: inputs and outputs are int8 too, by the manifest's scale and zero point."
    )
    image_inputs: bool = Field(
        False, description="iOS: inputs of one or three channels are typed as images (8-bit pixels, normalized inside)."
    )
    class_labels: bool = Field(
        False, description="iOS: a classifier that names the class: its scores become a dictionary by label."
    )
    ort_format: bool = Field(
        False, description="Edge device: the .ort format, for builds of ONNX Runtime that hold only what a model needs."
    )
    exporter: str | None = Field(
        None, description="An exporter that another distribution registers; left out, the platform's own converter."
    )

    @field_validator("exporter")
    @classmethod
    def _exporter_is_registered(cls, name: str | None) -> str | None:
        if name is not None and name not in (known := plugin_names(EXPORTER_PLUGINS)):
            raise ValueError(f"no installed distribution registers it; registered: {', '.join(known) or 'none'}")
        return name

    @model_validator(mode="after")
    def _exporter_shapes_its_file_itself(self) -> "ExportOptions":
        ours = {"integer_tensors", "image_inputs", "class_labels", "ort_format"}
        # Refused, since a key that is silently without effect looks as if it had worked.
        if self.exporter and (ignored := [name for name in sorted(ours) if getattr(self, name)]):
            raise ValueError(f"{', '.join(ignored)}: the exporter '{self.exporter}' shapes its file itself; leave out")
        return self

    @property
    def code(self) -> str:
        """The version of another distribution's exporter, for cache keys."""
        return plugin_code(EXPORTER_PLUGINS, self.exporter) if self.exporter else ""


def weight_bits(instruction_set: InstructionSet, dot_products: bool, options: ExportOptions) -> Literal[7, 8]:
    """Bits of an int8 weight for ONNX Runtime: 7 where the sums of 8 would saturate, on x86 without dot products in
    8 bits; and in `.ort` files, which are measured by the kernels of this machine."""
    return 7 if options.ort_format or (instruction_set == "x86_64" and not dot_products) else 8


class DeviceProfile(Value):
    """One kind of device; facts with their sources stand in its YAML file under ``profiles/devices``."""

    name: str = Field(description="How it is called; left out, the file's own name.")
    title: str = Field(description="How reports call it.")
    platform: Platform = Field(description="Decides the file format: Core ML, LiteRT or ONNX.")
    instruction_set: InstructionSet = Field(description="What its processor executes.")
    cores: int = Field(gt=0, description="Processor cores.")
    threads: int = Field(1, gt=0, description="Threads that inference may use.")
    memory_mb: int = Field(gt=0, description="Memory of the device, MB.")
    os_floor: str = Field(description="Oldest operating system that is supported.")
    runtime_floor: str = Field(description="Oldest version of the inference runtime that is supported.")
    budget: Budget = Budget()
    export: ExportOptions = ExportOptions()
    extensions: tuple[Extension, ...] = Field((), description="Instruction set extensions that every core has.")
    app_memory_mb: int | None = Field(None, gt=0, description="Memory that one application may hold, MB.")
    accelerators: tuple[str, ...] = Field((), description="What else could run a model there, such as gpu.")
    emulated_core: Literal["cortex-a7", "cortex-a53", "cortex-a72", "cortex-a76", "haswell"] | None = Field(
        None, description="The core that stands for it under emulation; haswell is x86 without VNNI."
    )
    kernels: Kernels = Kernels()
    joules_per_instruction: float | None = Field(
        None, gt=0, description="To estimate energy where the device has no meter: joules of one executed instruction."
    )
    policy: StepDownPolicy = StepDownPolicy()
    timing: Timing = Timing()
    ssh: SshConnection | None = Field(None, description="A real board: figures are taken there, over SSH.")
    adb: AdbConnection | None = Field(None, description="A real phone: figures are taken there, over adb.")
    target: str | None = Field(
        None,
        description="Where figures are taken: local, emulated_device (a whole machine, no times), ssh, adb, core_ml "
        "(this machine, if it is a Mac), or one that another distribution registers; left out, core_ml for ios, the "
        "board or phone that is named, else local.",
    )
    target_options: dict[str, str | int | float | bool] = Field(
        {}, description="What a target of another distribution takes, such as an address."
    )

    @property
    def dot_products(self) -> bool:
        """Whether every core is known to have dot products in 8 bits."""
        return bool(_DOT_PRODUCTS & set(self.extensions))

    @property
    def weight_bits(self) -> Literal[7, 8]:
        """Bits of an int8 weight there."""
        # Core ML and LiteRT have kernels of their own; what saturates are those of ONNX Runtime.
        if self.platform is not Platform.EDGE_DEVICE:
            return 8
        return weight_bits(self.instruction_set, self.dot_products, self.export)

    @property
    def target_kind(self) -> str:
        """Where figures are taken."""
        if self.platform is Platform.IOS:
            return "core_ml"
        return self.target or ("ssh" if self.ssh else "adb" if self.adb else "local")

    @model_validator(mode="after")
    def _target_is_described(self) -> "DeviceProfile":
        if self.target is not None and self.target not in (known := (*_TARGETS, *plugin_names(TARGET_PLUGINS))):
            raise ValueError(f"unknown target '{self.target}'; known: {', '.join(known)}")
        if self.target_options and (self.target is None or self.target in _TARGETS):
            raise ValueError(f"target_options are for targets of other distributions, not for {self.target or 'none'}")
        # A Core ML package runs by Core ML alone, which runs nothing else.
        if self.target is not None and (self.target == "core_ml") != (self.platform is Platform.IOS):
            raise ValueError(f"platform {self.platform} has no target {self.target}: ios has core_ml, no other has it")
        if self.target == "ssh" and self.ssh is None:
            raise ValueError("target ssh needs the key 'ssh': host, user, ...")
        if self.target == "adb" and self.adb is None:
            raise ValueError("target adb needs the key 'adb': benchmark_model, ...")
        if self.target == "emulated_device" and self.emulated_core not in _WHOLE_DEVICE_CORES:
            raise ValueError(f"target emulated_device needs an emulated_core of {', '.join(_WHOLE_DEVICE_CORES)}")
        return self


def profiles_folder() -> Path:
    """``EDGEWRIGHT_PROFILES``, else the project folder's."""
    given = variable("EDGEWRIGHT_PROFILES")
    return Path(given) if given else project_folder() / "profiles"


def shipped_names(kind: Literal["device", "recipe"]) -> list[str]:
    """The devices or recipes that are shipped, by name."""
    return sorted(p.stem for p in (profiles_folder() / f"{kind}s").glob("*.yaml"))


def find_shipped(kind: Literal["device", "recipe"], name_or_path: str) -> Path:
    """The file of a shipped device or recipe by its name; the path of a YAML file is that file.

    Raises:
        ProfileError: unknown name.
    """
    if Path(name_or_path).suffix in {".yaml", ".yml"}:
        return Path(name_or_path)
    known = shipped_names(kind)
    if name_or_path not in known:
        raise ProfileError(
            f"unknown {kind} '{name_or_path}'; known: {', '.join(known)}; or give the path of a .yaml file"
        )
    return profiles_folder() / f"{kind}s" / f"{name_or_path}.yaml"


def load_device(name_or_path: str) -> DeviceProfile:
    """A shipped device profile by name, or one of your own by the path of its YAML file.

    Raises:
        ProfileError: unknown name, unreadable file, or a key or value that is not allowed.
    """
    path = find_shipped("device", name_or_path)
    return read_value(path, DeviceProfile, "device profile", defaults={"name": path.stem}, error=ProfileError)
