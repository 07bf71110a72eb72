"""Commands of the local stack: `kp up`, `down`, `status`, `logs`, `doctor`, `demo`.

Belongs here: their options and output. Does not belong here: the stack (`local/`).
"""

import os
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from kp_platform.cli.output import AsJson, Failure, console, print_json, print_line
from kp_platform.local.settings import LocalSettings
from kp_platform.settings import STACK_ENV

SERVICES = (
    "kafka",
    "mysql",
    "redis",
    "elasticsearch",
    "trino",
    "dagster-code-server",
    "dagster-webserver",
    "dagster-daemon",
    "emitter",
)


def up(
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster",
            help="Set up a new KP_HOME with three Kafka brokers, two Trino workers and 12 "
            "partitions per topic.",
        ),
    ] = False,
    secure: Annotated[
        bool,
        typer.Option("--secure", help="Set up a new KP_HOME with TLS, users and passwords."),
    ] = False,
) -> None:
    """Start all services of the local stack and wait until they are ready."""
    from kp_platform.local import stack, state

    if cluster and secure:
        raise typer.BadParameter("a stack is either a --cluster or --secure")
    settings = LocalSettings()
    if cluster:
        from kp_platform.local.cluster import cluster as cluster_settings

        state.settle(settings.home, "--cluster", lambda: cluster_settings(settings.port_offset))
    if secure:
        from kp_platform.local.secure import refuse_external, secure_settings  # slow to import

        refuse_external(settings)
        state.settle(settings.home, "--secure", lambda: secure_settings(settings))
    if cluster or secure:
        settings = LocalSettings()  # with those that were just stored in KP_HOME
    stack.up(settings, console())
    _print_urls(settings)


def down(
    purge: Annotated[
        bool, typer.Option("--purge", help="Also remove KP_HOME, with all data.")
    ] = False,
) -> None:
    """Stop all services of the local stack and wait until their processes have ended."""
    from kp_platform.local import stack

    stack.down(LocalSettings(), console(), purge=purge)


def status(as_json: AsJson = False) -> None:
    """Check once whether each service is ready."""
    from kp_platform.local import stack

    found = stack.status(LocalSettings())
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        table = Table("service", "state", "pid", "seconds", "address", "ready", box=None)
        for each in found:
            pid, uptime = str(each.pid or ""), str(each.uptime_seconds or "")
            ready = "yes" if each.ready else "no"
            table.add_row(each.service, each.state, pid, uptime, each.address, ready)
        console().print(table)
    if waiting := [each for each in found if not each.ready]:
        count = f"{len(waiting)} of {len(found)} services are not ready"
        raise Failure(f"{count}; {waiting[0].reason}")


def logs(
    service: Annotated[
        str,
        typer.Argument(
            help=f"One of: {', '.join(SERVICES)}; or another service that `kp status` lists."
        ),
    ],
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, help="Number of most recent lines to print.")
    ] = 50,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Continue to print new lines.")
    ] = False,
) -> None:
    """Show the log of one service."""
    from kp_platform.local.servers import services
    from kp_platform.local.supervisor import log_file

    settings = LocalSettings()
    names = [each.name for each in services(settings)]
    if service not in names:
        raise typer.BadParameter(f"unknown service {service!r}; known: {', '.join(names)}")
    if service in settings.external_services:
        raise Failure(f"{service} runs elsewhere (KP_EXTERNAL): read its log there")
    path = log_file(settings.home, service)
    if not path.exists():
        raise Failure(f"{service} has no log at {path}: start it with `kp up`")
    sys.stdout.flush()
    os.execvp("tail", ["tail", "-n", str(lines), *(["-F"] if follow else []), "--", str(path)])


def doctor(as_json: AsJson = False) -> None:
    """Check prerequisites and print a fix for each problem."""
    from kp_platform.local import preflight, servers
    from kp_platform.local.supervisor import Supervisor

    settings = LocalSettings()
    running = Supervisor(settings.home).pid() is not None
    findings = preflight.examine(settings, servers.services(settings), running=running)
    if as_json:
        print_json([asdict(each) for each in findings])
    else:
        for each in findings:
            remedy = f"  ->  {each.remedy}" if each.remedy else ""
            print_line(f"{'✓' if each.ok else '✗'} {each.subject:<32} {each.detail}{remedy}")
    if problems := [each.subject for each in findings if not each.ok]:
        raise Failure(f"{len(problems)} problem(s) to fix: {', '.join(problems)}")


def demo(
    requests: Annotated[int, typer.Option(min=1, max=5000, help="Number of requests.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Send requests to the emitter and wait until their events are searchable."""
    from kp_platform.local import demo

    settings, screen = LocalSettings(), console()
    screen.quiet = as_json
    report = demo.run(settings, requests, screen)
    if as_json:
        print_json(asdict(report))
    else:
        _print_urls(settings)


def _print_urls(settings: LocalSettings) -> None:
    print_line(f"Dagster      {settings.dagster_url}")
    print_line(f"access logs  {settings.emitter_url}/analysis")
    print_line(f"full text    {settings.emitter_url}/fulltext")
    print_line(f"Trino        {settings.trino_url}/ui/")
    if settings.trino_password.get_secret_value():
        print_line(
            f"passwords    {settings.home / STACK_ENV}, e.g. of {settings.trino_user} for Trino"
        )
        print_line("without TLS  Elasticsearch, Dagster and the pages, on 127.0.0.1 only")
