"""What devices report, against what was measured before release."""
