"""Structured logs. They contain order and payment ids, never user ids, bodies, headers or secrets."""

from aws_lambda_powertools import Logger

logger = Logger(service="payment3-callback")
