"""The store: machines' records, paths and locks."""
