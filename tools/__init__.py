"""Tools for working on this repository; nothing here is part of what users install."""
