"""Takes what is whole out of a damaged storage, and reports the rest."""
