"""Data sets as they are given out: archives and record files, made into image folders."""
