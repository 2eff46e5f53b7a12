"""The client chain: flows, their runner, outcomes and the methods of the service."""
