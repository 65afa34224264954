"""Shared by the task functions: rules, tables, configuration, checks and reports."""
