"""The same work in several frameworks, a script each, for tools/compare_frameworks.py.

`prepare.py` writes a folder: the network, images, and what this project computes from them. Each `measure_*.py` reads
it in a virtual environment of its own, shows that it computes the same, and prints how fast it is.
"""
