"""Runs one operator of a library of kernels: python smoke_run.py LIBRARY.

A process of its own, since one with instructions that the processor does not have ends by a signal.
"""
import ctypes
import resource
import sys

COUNT = 4096  # floats: enough for the widest vectors, unrolled


def main(library: str) -> None:
    """Ends normally if the operator finds that all numbers are finite, as they are."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a signal is an answer here, not a fault to look into
    numbers, found = (ctypes.c_float * COUNT)(*range(COUNT)), (ctypes.c_float * 1)()
    parameters = (ctypes.c_void_p * 2)(ctypes.addressof(numbers), ctypes.addressof(found))
    ranks = (ctypes.c_int * 2)(1, 1)
    sizes = (ctypes.c_int64 * 2)(COUNT, 1)
    shapes = (ctypes.c_void_p * 2)(ctypes.addressof(sizes), ctypes.addressof(sizes) + ctypes.sizeof(ctypes.c_int64))
    types = (ctypes.c_char_p * 2)(b"float32", b"float32")
    status = ctypes.CDLL(library).all_finite(2, parameters, ranks, shapes, types, None, None)
    if status != 0 or found[0] != 1:
        sys.exit(f"all_finite ended with {status} and found {found[0]}")


if __name__ == "__main__":
    main(sys.argv[1])
