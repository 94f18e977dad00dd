"""The SQL of the driver: the statements, by name, and the migrations of the schema."""
