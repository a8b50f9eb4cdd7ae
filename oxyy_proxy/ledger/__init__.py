"""The ledger: where every request's hold, settlement and usage stand. Storage behind one protocol of atomic verbs."""
