"""The value of the fourth flow; a user of the platform has no `folder`."""

from pathlib import Path

from kp_platform.flows import Flow

ORDERS = Flow(
    name="orders",
    topic="shop.order",
    index="shop.orders",
    asset="shop_orders",
    description="Orders of a shop with the id of their customer",
    fields=("uuid", "customer", "euros"),
    references={"mysql": "customer_id"},
    folder=Path(__file__).parent,
)
