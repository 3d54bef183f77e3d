"""System mail: welcome, lost passwords, and alerts with their rules."""
