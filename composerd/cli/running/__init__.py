"""The work of commands, imported when a command runs.

The modules above have the commands' options. Completion in shells imports those while somebody types, so they import
nothing that takes long: neither rich, asyncio and msgspec nor the client, the server and the drivers.
"""
