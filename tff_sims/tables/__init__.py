"""The papers' tables: one command each, and one file each that says what is run and shown."""
