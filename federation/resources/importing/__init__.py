"""Import of JSON lines into the SQL resource provider."""
