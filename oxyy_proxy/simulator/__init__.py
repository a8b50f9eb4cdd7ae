"""A faithful fake of the oxyy API, with faults on demand and a bill of its own.

    sim = Simulator(prices={"gpt-5": {"input": "1.25", "output": "10.00"}}, org_key="sk-org")
    await sim.start()
    ...                      # point a client, or the proxy, at sim.url
    sim.bill, sim.total_nusd # what the upstream would charge
    await sim.stop()

The way of a request: `asked` reads it (a form with `forms`), `chat`, `images` or another file named for its endpoint
makes the whole answer, `effects` turns the answer into a script (with a fault or without), `bill` notes the charge,
`play` sends it. A video is charged by `jobs`, when it is done. It shares no code with the proxy, so that its bill is
a second opinion.
"""

from .bill import BillEntry
from .faults import FaultError, parse_fault
from .jobs import Job, JobError
from .pricelist import DEFAULT_PRICES, PriceList
from .prices import served
from .server import Simulator
from .uploads import Upload

__all__ = [
    "DEFAULT_PRICES",
    "BillEntry",
    "FaultError",
    "Job",
    "JobError",
    "PriceList",
    "Simulator",
    "Upload",
    "parse_fault",
    "served",
]
