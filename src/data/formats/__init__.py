"""Archives and record files of published data sets, converted to and from image folders."""
