"""The SQL of the driver: named statements, and the migrations of the schema."""
