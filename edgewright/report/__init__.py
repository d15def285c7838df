"""What was measured, for people and for other programs: one list of figures, and its renderers."""
