"""The endpoints of both APIs and of the site, one module for each group."""
