"""A spoken corpus made offline: synthesis, speakers, rooms, features, words; a user's own data."""
