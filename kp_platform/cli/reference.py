"""Commands of the reference data: `kp seed`, `kp reference set`.

Belongs here: their options and output. Does not belong here: the changes
(`operations/reference_data.py`).
"""

from dataclasses import asdict
from typing import Annotated

import typer

from kp_platform.cli.output import AsJson, print_json, print_line
from kp_platform.settings import Settings

app = typer.Typer(help="Change reference data; indexed documents are refreshed.")


def seed(as_json: AsJson = False) -> None:
    """Load the reference rows into MySQL and the reference keys into Redis. Can be repeated."""
    from kp_platform.adapters.kafka import KafkaAdapter
    from kp_platform.adapters.mysql import MySQLAdapter
    from kp_platform.adapters.redis import RedisAdapter
    from kp_platform.operations import reference_data

    settings = Settings()
    report = reference_data.seed(
        MySQLAdapter(settings), RedisAdapter(settings), KafkaAdapter(settings).publish_changes
    )
    if as_json:
        print_json(asdict(report))
    else:
        print_line(f"{report.rows} rows in MySQL, {report.keys} keys in Redis")


@app.command("set")
def set_reference(
    name: Annotated[str, typer.Argument(help="The name, as in the events.")],
    url: Annotated[str, typer.Argument(help="The new value in Redis.")],
) -> None:
    """Set the MySQL row and the Redis value of a name, and publish the change."""
    from kp_platform.adapters.kafka import KafkaAdapter
    from kp_platform.adapters.mysql import MySQLAdapter
    from kp_platform.adapters.redis import RedisAdapter
    from kp_platform.operations import reference_data

    settings = Settings()  # outside of `try`: a wrong setting is a ValueError too
    publish_changes = KafkaAdapter(settings).publish_changes
    try:
        reference_data.set_reference(
            MySQLAdapter(settings), RedisAdapter(settings), publish_changes, name, url
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    print_line(f"{name} is set and the change published; for the refresh see `kp lag`")
