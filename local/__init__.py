"""The stack on one machine: an emulator of AWS, the real template deployed to it, and API Gateway's part in front.

Whatever makes the emulator differ from AWS is bridged here, so that the product knows nothing of it.
"""
