//! A connection to a chat service: the generation records it.
