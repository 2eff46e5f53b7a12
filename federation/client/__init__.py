"""The client side: one chain of generator flows, and the channels that drive it."""
