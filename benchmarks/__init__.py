"""Programs that measure what composerd claims about its speed. See README.md in this directory."""
