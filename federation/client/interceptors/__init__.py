"""The members of the chain, one concern a file. `federation.client.chain` holds their order."""
