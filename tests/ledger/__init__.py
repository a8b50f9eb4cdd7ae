"""The ledger's tests. `test_conformance.py` holds for every store."""
