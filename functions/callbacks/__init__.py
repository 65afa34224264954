"""What the task functions share: the rules, the tables, the configuration, the reports."""
