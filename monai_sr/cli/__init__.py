"""The commands of ``monai-sr``, by subject.

They print; everything below them reports to its caller. torch and MONAI are imported within a command, so that
help and usage errors come at once.
"""
