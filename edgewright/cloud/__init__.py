"""The cloud's side of devices in the field; needs FastAPI and SQLAlchemy, so nothing is imported here."""
