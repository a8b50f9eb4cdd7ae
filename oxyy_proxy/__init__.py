"""oxyy-proxy: a reverse proxy between a company's services and the oxyy API that meters, limits and fails over.

The nouns, used with one meaning throughout:

- *principal*: a team and the key it called with.
- *target*: a model that may answer, with the worst it can cost.
- *hold*: what is reserved in the ledger before anything goes upstream.
- *attempt*: one call to the upstream for one target.
- *settle*: the end of a hold, once, at what it really cost.
- *window*: the calendar span over which a limit counts.

Money is an integer number of nano-USD (`_nusd`); times are seconds since the epoch (`_at`) or spans (`_s`).
"""

__version__ = "0.1.0"
