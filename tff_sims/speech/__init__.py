"""A spoken corpus made offline: synthesis, speakers, rooms, features, words, and a user's own data."""
