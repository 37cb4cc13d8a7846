"""Calculates what a month costs at list prices, and how many machines it takes. Pure."""

import math
from dataclasses import dataclass

from .model import DAY, GB, Need

MONTH_DAYS = 30.4

# List prices in USD, us-east-1, on demand, as known on 2026-11-25 and not looked up that day: check them at
# https://aws.amazon.com/s3/pricing/, https://aws.amazon.com/ec2/pricing/on-demand/ and https://aws.amazon.com/ebs/pricing/.
PUT_PRICE = LIST_PRICE = 0.005 / 1_000
GET_PRICE = 0.0004 / 1_000
LAKE_GB_MONTH_PRICE = 0.023
MACHINE_HOUR_PRICE = 0.096
"""The price of an m6i.large, whose cores and memory follow."""
MACHINE_CORES, MACHINE_BYTES = 2, 8 * GB
DISK_GB_MONTH_PRICE = 0.08
"""gp3."""

LAKE_MONTHS, WAREHOUSE_DAYS = 12, 90
"""The time for which lake and warehouse keep events, and are paid for."""
DISK_BYTES = 1_000 * GB
"""The most for one PostgreSQL: more is hard to back up."""
HEADROOM = 0.7
"""No process, machine or token is planned fuller than this."""


def machine_count(need: Need) -> int:
    """Returns the machines for the processes and PostgreSQL together."""
    cores = (need.cpu + need.postgres_cpu) / DAY / MACHINE_CORES
    return max(postgres_count(need), math.ceil(max(cores, need.memory / MACHINE_BYTES) / HEADROOM))


def postgres_count(need: Need) -> int:
    """Returns the servers whose disk and CPU are enough for the warehouse."""
    return max(
        1,
        math.ceil(need.warehouse_bytes * WAREHOUSE_DAYS / DISK_BYTES),
        math.ceil(need.postgres_cpu / DAY / MACHINE_CORES / HEADROOM),
    )


@dataclass(frozen=True)
class Bill:
    """USD a month, at list prices."""

    machines: float
    disk: float
    puts: float
    other_requests: float
    lake: float

    @property
    def total(self) -> float:
        """The sum."""
        return self.machines + self.disk + self.puts + self.other_requests + self.lake


def bill_of(need: Need) -> Bill:
    """Returns what a month costs once the lake has a year, and the warehouse a quarter of one."""
    return Bill(
        machines=machine_count(need) * MACHINE_HOUR_PRICE * 24 * MONTH_DAYS,
        disk=need.warehouse_bytes * WAREHOUSE_DAYS / GB * DISK_GB_MONTH_PRICE,
        puts=need.puts * MONTH_DAYS * PUT_PRICE,
        other_requests=(need.gets * GET_PRICE + need.lists * LIST_PRICE) * MONTH_DAYS,
        lake=need.lake_bytes * LAKE_MONTHS * MONTH_DAYS / GB * LAKE_GB_MONTH_PRICE,
    )
