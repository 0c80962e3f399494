"""Stands in for Huawei's MoXing, which cannot be had outside of ModelArts: `obs://` is a folder, calls are recorded.

MOXING_STORAGE names the folder: obs://bucket/a is MOXING_STORAGE/bucket/a. In it, `.faults.json` lists what is to go
wrong: {"match": part of "source target", "times": n, "error": text, "errno": number, "seconds": delay}; each entry is
used up `times` times (-1: never). `.calls` gets a line of JSON per call.
"""
from moxing import file as file
