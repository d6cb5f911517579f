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
        if record.exc_info:
            record.exc_text = redact("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return not (record.exc_info and isinstance(record.exc_info[1], FailedRun))


def filter_logs() -> None:
    """Let all that runs log pass through the filter."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(LogFilter())
