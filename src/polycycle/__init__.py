"""polycycle: teach an open-weights LLM new languages without making it forget the ones it knows."""

__version__ = "0.1.0"
