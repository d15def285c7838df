"""Where an exported file parts from its reference: values aligned, operators tried one at a time."""
