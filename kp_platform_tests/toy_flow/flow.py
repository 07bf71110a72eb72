"""The value of the fourth flow."""

from pathlib import Path

from kp_platform.flows.model import Flow

_FOLDERS = Path(__file__).parent

ORDERS = Flow(
    name="orders",
    folder=_FOLDERS / "orders",
    topic="shop.order",
    index="shop.orders",
    asset="shop_orders",
    description="Orders of a shop with the id of their customer",
    fields=("uuid", "customer", "euros"),
    references={"mysql": "customer_id"},
)
