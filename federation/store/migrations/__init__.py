"""Schema migrations, run by `Database.open`."""
