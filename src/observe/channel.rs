//! A connection to a chat service: it is what the last applied generation says.
