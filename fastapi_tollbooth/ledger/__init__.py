"""The ledger: every cent as a row."""
