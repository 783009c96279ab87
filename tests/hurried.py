"""`python -m tests.hurried serve`: Holdfast with short time limits for slow clients."""

from service.cli import main
from service.ops import protocol

protocol.HEAD_SECONDS_MAX = 0.5
protocol.BODY_SECONDS_MAX = 1.0
protocol.DISCARD_SECONDS_MAX = 0.5

if __name__ == "__main__":
    main()
