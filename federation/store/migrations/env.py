"""The Alembic environment: migrates over the connection passed by `Database.open`."""

from alembic import context

from federation.store.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
