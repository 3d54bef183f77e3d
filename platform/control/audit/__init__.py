"""Every change, with before and after."""
