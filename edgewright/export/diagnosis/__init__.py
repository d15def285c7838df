"""Where an exported file diverges from its reference: values aligned, operators tried one at a time."""
