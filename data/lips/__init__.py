"""Lips of a speaker: found in a video, cropped, tracked, stored, and shown to models frame by frame."""

from avse.data.lips.lips import Lips, Reason, read_lips

__all__ = ["Lips", "Reason", "read_lips"]
