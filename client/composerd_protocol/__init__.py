"""The rules that composerd's server, its clients and its commands share, such as texts for durations, and options."""
