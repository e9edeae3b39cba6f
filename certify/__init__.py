"""The application: command line, data sets, model loading, runs and their journal, reports and audits."""

__version__ = "0.1.0"
