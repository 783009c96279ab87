"""`python -m tests.hurried serve`: Holdfast, but what clients may take seconds for is soon over."""

from service.cli import main
from service.ops import protocol

protocol.HEAD_SECONDS_MAX = 0.5
protocol.BODY_SECONDS_MAX = 1.0
protocol.DISCARD_SECONDS_MAX = 0.5

if __name__ == "__main__":
    main()
