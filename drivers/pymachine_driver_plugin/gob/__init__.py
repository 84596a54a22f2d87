"""Gob, the format in which Go's net/rpc sends its values: an encoder and a decoder for the kinds that plug-ins use.

Source: "Encoding Details" and the grammar in the documentation of Go's package ``encoding/gob``.
"""
