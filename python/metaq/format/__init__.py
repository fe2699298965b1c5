"""The `.mtq` format: bytes to files and back (docs/format.md)."""
