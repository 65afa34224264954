"""The stack on one machine: an emulator of AWS, the real template deployed to it, and API Gateway's part in front.

Bridges every difference between the emulator and AWS, so that the product knows of none. API Gateway is our own
emulation (gateway.py, vtl.py, intrinsics.py): tests/unit/test_gateway.py, test_vtl.py and test_intrinsics.py check it
against AWS's documentation, since all end-to-end tests rely on it.
"""
