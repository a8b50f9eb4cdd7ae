"""How the published numbers are made: `make bench`, or `python -m tests.benchmarks --help`.

    load  ──►  target (pinned to a core of its own)  ──►  upstream

A *target* is what stands between the load and the stub upstream: nothing (`direct`), `nginx`, the `naive` aiohttp
pass-through, or the `proxy` with everything on. A *workload* is one kind of request. A *phase* is one workload
against one target at one number of connections; a *round* is that phase once for every target, one right after the
other, so that what disturbs the machine disturbs them alike. Figures are medians over rounds; ratios are formed
within a round.
"""
