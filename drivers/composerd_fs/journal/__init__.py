"""The journal on disk: its files, frames and entries, writing and reading it, checkpoints and compaction."""
