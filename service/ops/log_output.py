"""The format of log lines."""

import sys

import structlog


def configure_logging(log_format: str) -> None:
    """Write log lines to stderr: `console` for people, `json` for collectors."""
    is_json = log_format == "json"
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if is_json else structlog.dev.set_exc_info,
            structlog.processors.JSONRenderer()
            if is_json
            else structlog.dev.ConsoleRenderer(
                exception_formatter=structlog.dev.plain_traceback  # no locals: they may be secret
            ),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
