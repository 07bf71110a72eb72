"""Notifications of failed runs.

Belongs here: the sensor on failed runs, and the message that it posts to `KP_ALERT_WEBHOOK`. Does
not belong here: starting the next run, which each job's own sensor does.
"""

import dagster as dg
import requests
import stamina

from kp_platform.settings import Settings

INTERVAL_SECONDS = 60
TIMEOUT_SECONDS = 10.0
ATTEMPTS = 3
MAX_CHARACTERS = 500


class NotPosted(Exception):
    """The webhook did not accept a message. The text omits its URL, which may hold a secret."""


def failure_sensor() -> dg.SensorDefinition:
    """The sensor; without `KP_ALERT_WEBHOOK` it does nothing."""

    @dg.run_failure_sensor(
        name="failed_runs",
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Posts each failed run as JSON to KP_ALERT_WEBHOOK, in the format of chat webhooks "
            "such as Slack's (`text`). Disabled while the setting is empty."
        ),
    )
    def post_failed_run(
        context: dg.RunFailureSensorContext, settings: dg.ResourceParam[Settings]
    ) -> dg.SkipReason | None:
        url = settings.alert_webhook.get_secret_value()
        if not url:
            return dg.SkipReason("KP_ALERT_WEBHOOK is not set")
        run = context.dagster_run
        post(url, message(run.job_name, run.run_id, cause(context), settings.dagster_url))
        context.log.info("posted run %s", run.run_id)
        return None

    return post_failed_run


def cause(context: dg.RunFailureSensorContext) -> str:
    """The error of the first failed step, else Dagster's message about the run."""
    for event in context.get_step_failure_events():
        if error := event.step_failure_data.error:
            return (error.cause or error).message.strip()
    return context.failure_event.message or ""


def message(job: str, run_id: str, error: str, dagster_url: str) -> dict[str, str]:
    """The body to post: `text` to read, the rest for programs."""
    url = f"{dagster_url}/runs/{run_id}"
    error = error[:MAX_CHARACTERS]
    return {
        "text": f"{job} failed: {error} {url}",
        "job": job,
        "run_id": run_id,
        "error": error,
        "url": url,
    }


@stamina.retry(on=NotPosted, attempts=ATTEMPTS, timeout=3 * TIMEOUT_SECONDS)
def post(url: str, body: dict[str, str]) -> None:
    """Post a message; redirects are not followed. Raises NotPosted."""
    try:
        answer = requests.post(url, json=body, timeout=TIMEOUT_SECONDS, allow_redirects=False)
    except requests.RequestException as error:
        raise NotPosted(f"KP_ALERT_WEBHOOK does not answer: {type(error).__name__}") from None
    if not answer.ok or answer.is_redirect:
        raise NotPosted(f"KP_ALERT_WEBHOOK answers {answer.status_code}")
