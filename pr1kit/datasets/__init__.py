"""Where samples come from: the seeded synthetic world (`scenes`)."""
