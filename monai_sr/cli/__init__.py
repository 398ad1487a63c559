"""The commands of ``monai-sr``, by subject.

They print, for all below them only tells callers. torch and MONAI are imported within a command, so that
help and usage errors come at once.
"""
