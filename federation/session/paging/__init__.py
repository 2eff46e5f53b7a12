"""Paging over several sources: query plans, cursors and the merge."""
