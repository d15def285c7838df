"""How models and patches are coded for the way to the device.

Written by hand: a device has the standard library and numpy, and libraries of entropy coders (constriction, zstandard)
need a compiled wheel for each board; nor does one of them model quantized weights.
"""
