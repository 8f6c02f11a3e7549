//! The runtime `docker`: an agent in a container of a Docker engine.
