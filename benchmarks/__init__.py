"""What composerd claims about its speed, as programs. See README.md beside this file."""
