"""What runs of the workflow log: without credentials, and without tracebacks that say nothing new."""

import logging
import traceback

from prefect.exceptions import FailedRun

from pipeline.running.redaction import redact

LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")


class LogFilter(logging.Filter):
    """Hides credentials, and drops the traceback through Prefect of a run whose state says that it failed, and why."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        error = record.exc_info[1] if record.exc_info else None
        record.exc_info = (type(error), error, error.__traceback__) if error else None
        record.exc_text = redact("".join(traceback.format_exception(error)).rstrip()) if error else None
        return not isinstance(error, FailedRun)


def filter_logs() -> None:
    """Let all that runs log pass through the filter."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(LogFilter())
