"""Recipes: an ordered list of techniques, each with its parameters. No ML framework is imported here.

A technique's parameter object selects the function that carries it out (`edgewright.optimize.apply` for those that
change the network, `edgewright.export` for those that a platform's own quantizer does).
"""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError

from edgewright.artifact import Value
from edgewright.errors import ProfileError
from edgewright.profile import first_fault, profiles_folder

__all__ = ["AnyTechnique", "Quantize", "Recipe", "Technique", "load_recipe", "recipe_names"]


class Technique(Value):
    """Base of every technique's parameters."""

    keep: Literal["if_useful", "always"] = Field(
        "if_useful",
        description="if_useful: left out when the model gets neither smaller nor faster, or too inaccurate.",
    )


class Quantize(Technique):
    """Store weights (and, for int8, activations) in fewer bits, by the platform's own quantizer."""

    technique: Literal["quantize"] = "quantize"
    dtype: Literal["int8", "float16"] = Field(
        "int8", description="int8: static, per channel, calibrated on training rows; float16: weights halved."
    )


AnyTechnique = Quantize


class Recipe(Value):
    """What is done to a model, in order, and how much accuracy it may cost."""

    name: str
    description: str
    techniques: tuple[AnyTechnique, ...] = ()
    max_accuracy_drop_percent: float = Field(
        1.0, gt=0, le=100, description="Largest loss of accuracy against the source model, percentage points."
    )


def recipe_names() -> list[str]:
    """The recipes that are shipped, by name."""
    return sorted(p.stem for p in (profiles_folder() / "recipes").glob("*.yaml"))


def load_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by name, or one of your own by the path of its YAML file.

    Raises:
        ProfileError: unknown name, unreadable file, or a key or value that is not allowed.
    """
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        path = profiles_folder() / "recipes" / f"{name_or_path}.yaml"
        if not path.is_file():
            raise ProfileError(
                f"unknown recipe '{name_or_path}'; known: {', '.join(recipe_names())}; or give the path of a .yaml file"
            )
    try:
        content = yaml.safe_load(path.read_text())
        return Recipe.model_validate({"name": path.stem, **content})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError) as e:
        raise ProfileError(f"recipe {path}: cannot be read: {str(e).splitlines()[0]}") from e
    except ValidationError as e:
        raise ProfileError(f"recipe {path}: {first_fault(e)}") from e
