"""The rules that composerd's server and its clients share: texts for durations and sizes, digests, names of files."""
