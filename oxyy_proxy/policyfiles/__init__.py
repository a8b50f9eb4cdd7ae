"""YAML in one folder -> one immutable `Policy`; a reload keeps the last good one.

folder.py     the files, read once, and their fingerprint
document.py   YAML 1.2 -> plain data with the place of every key and value
schema.py     the fields of each file
source.py     one file against its schema; errors in words, with file:line:column
models.py, limits.py, teams.py
              what is checked across fields and files; the records of `rules.types`
loading.py    the order of all this
store.py      the policy in force, and reloading
"""

from oxyy_proxy.policyfiles.findings import Finding, Loaded, PolicyInvalid
from oxyy_proxy.policyfiles.loading import load
from oxyy_proxy.policyfiles.store import PolicyStore

__all__ = ["Finding", "Loaded", "PolicyInvalid", "PolicyStore", "load"]
