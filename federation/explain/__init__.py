"""Why a peer cannot be read: the way to it walked link by link, and the first broken one named with its cure."""
