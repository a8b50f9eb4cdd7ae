"""A faithful fake of the oxyy API, with faults on demand and a bill of its own.

    sim = Simulator(prices={"gpt-5": {"input": "1.25", "output": "10.00"}}, org_key="sk-org")
    await sim.start()
    ...                      # point a client, or the proxy, at sim.url
    sim.bill, sim.total_nusd # what the upstream would charge
    await sim.stop()

The way of a request: `asked` reads it, `chat` or `embeddings` makes the whole answer, `effects` turns the answer
into a script (with a fault or without), `bill` notes the charge, `play` sends it. It shares no code with the proxy,
so that its bill is a second opinion.
"""

from .bill import BillEntry
from .faults import FaultError, parse_fault
from .prices import DEFAULT_PRICES, PriceList
from .server import Simulator

__all__ = ["DEFAULT_PRICES", "BillEntry", "FaultError", "PriceList", "Simulator", "parse_fault"]
