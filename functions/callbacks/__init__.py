"""Shared by the task functions: rules, tables, configuration, checks and reports."""

import logging

# Lambda gives the root logger its application log level, INFO, at which the libraries log at each cold start.
logging.getLogger().setLevel(logging.WARNING)
