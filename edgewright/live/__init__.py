"""Objects of a Python session as the files that a deployment begins with: models, rows, recipes and devices."""

from edgewright.live.data_files import write_data
from edgewright.live.model_files import model_name, write_model

__all__ = ["model_name", "write_data", "write_model"]
