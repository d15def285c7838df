"""The cloud's side of devices in the field; needs FastAPI and SQLAlchemy, so it is imported where it is used."""

from edgewright.cloud.database import Database, Device
from edgewright.cloud.serve import add_device, default_database, serve

__all__ = ["Database", "Device", "add_device", "default_database", "serve"]
