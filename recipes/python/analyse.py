"""Prints mean and deviation of the numbers in files, one a line."""

import sys

import numpy as np

for name in sys.argv[1:]:
    numbers = np.loadtxt(name, ndmin=1)
    print(f"{name}: {numbers.size} numbers, mean {numbers.mean():g}, deviation {numbers.std():g}")
