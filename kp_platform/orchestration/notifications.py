"""A word to people when a run fails.

Belongs here: the sensor on failed runs, and the message that it posts to `KP_ALERT_WEBHOOK`. Does
not belong here: starting the next run, which the sensor of each job does by itself.
"""

import dagster as dg
import requests
import stamina

from kp_platform.settings import Settings

LOOK_SECONDS = 60
ANSWER_SECONDS = 10.0
ATTEMPTS = 3
MOST_CHARACTERS = 500


class NotPosted(Exception):
    """The webhook did not take a message. The text does not name it: such URLs hold secrets."""


def failure_sensor() -> dg.SensorDefinition:
    """The sensor; without `KP_ALERT_WEBHOOK` it does nothing."""

    @dg.run_failure_sensor(
        name="failed_runs",
        minimum_interval_seconds=LOOK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Posts each failed run as JSON to KP_ALERT_WEBHOOK, in the form that chats like Slack "
            "take (`text`). Off as long as that is not set."
        ),
    )
    def post_failed_run(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        settings = Settings()
        url = settings.alert_webhook.get_secret_value()
        if not url:
            return dg.SkipReason("KP_ALERT_WEBHOOK is not set")
        run = context.dagster_run
        post(url, message(run.job_name, run.run_id, cause(context), settings))
        context.log.info("told of run %s", run.run_id)
        return None

    return post_failed_run


def cause(context: dg.RunFailureSensorContext) -> str:
    """What the first step that failed raised; else what Dagster says of the run."""
    for event in context.get_step_failure_events():
        if error := event.step_failure_data.error:
            return (error.cause or error).message.strip()
    return context.failure_event.message or ""


def message(job: str, run_id: str, error: str, settings: Settings) -> dict[str, str]:
    """What is posted: `text` for people, the rest for programs."""
    url = f"{settings.dagster_url}/runs/{run_id}"
    error = error[:MOST_CHARACTERS]
    return {
        "text": f"{job} failed: {error} {url}",
        "job": job,
        "run_id": run_id,
        "error": error,
        "url": url,
    }


@stamina.retry(on=NotPosted, attempts=ATTEMPTS, timeout=3 * ANSWER_SECONDS)
def post(url: str, body: dict[str, str]) -> None:
    """Send a message; a redirect is not followed. Raises NotPosted."""
    try:
        answer = requests.post(url, json=body, timeout=ANSWER_SECONDS, allow_redirects=False)
    except requests.RequestException as error:
        raise NotPosted(f"KP_ALERT_WEBHOOK does not answer: {type(error).__name__}") from None
    if not answer.ok or answer.is_redirect:
        raise NotPosted(f"KP_ALERT_WEBHOOK answers {answer.status_code}")
